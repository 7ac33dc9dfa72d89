package conf

import (
	"bytes"
	"fmt"
	"reflect"

	"github.com/goccy/go-yaml"
)

// Tree returns the configuration as nested maps and lists for JSON. Secrets are hidden.
func Tree(config any) (map[string]any, error) {
	var text bytes.Buffer
	if err := Print(&text, config, false); err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text.Bytes(), &tree); err != nil {
		return nil, fmt.Errorf("read back printed configuration: %w", err)
	}
	return tree, nil
}

// Changed lists the keys whose values differ between two configurations of one type, both pointers.
func Changed(a, b any) ([]string, error) {
	left, err := rootOf(a)
	if err != nil {
		return nil, err
	}
	right, err := rootOf(b)
	if err != nil {
		return nil, err
	}
	if left.Type() != right.Type() {
		return nil, fmt.Errorf("cannot compare %s with %s", left.Type(), right.Type())
	}
	return changed(left, right, ""), nil
}

func changed(a, b reflect.Value, prefix string) (keys []string) {
	for _, f := range fieldsOf(a.Type()) {
		x, y, key := a.FieldByIndex(f.index), b.FieldByIndex(f.index), joinKey(prefix, f.name)
		switch {
		case isSection(x.Type()):
			keys = append(keys, changed(x, y, key)...)
		case !reflect.DeepEqual(x.Interface(), y.Interface()):
			keys = append(keys, key)
		}
	}
	return keys
}
