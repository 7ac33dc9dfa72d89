package conf

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// set stores a YAML node in v, which key names, and reports every fault below it.
func (l *loader) set(v reflect.Value, key string, node ast.Node) {
	if token := node.GetToken(); token != nil && token.Position != nil && l.inFile && l.lines[key] == 0 {
		l.lines[key] = token.Position.Line
	}
	switch n := node.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		l.fault(key, "YAML anchors, aliases, merges and tags are not supported: write the value out")
		return
	case *ast.NullNode:
		return // "section:" with nothing below it keeps the defaults
	case *ast.LiteralNode:
		node = n.Value
	}
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer:
		fresh := reflect.New(t.Elem())
		l.fresh(fresh.Elem(), key)
		l.set(fresh.Elem(), key, node)
		v.Set(fresh)
	case isScalar(t):
		l.setScalar(v, key, node)
	case t.Kind() == reflect.Slice:
		l.setList(v, key, node)
	case t.Kind() == reflect.Map:
		l.setMap(v, key, node)
	default:
		l.setSection(v, key, node)
	}
}

// fresh gives a new list or map element its defaults.
func (l *loader) fresh(v reflect.Value, key string) {
	if isSection(v.Type()) {
		l.defaults(v, key)
	}
}

func entries(node ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	default:
		return nil, false
	}
}

func (l *loader) setSection(v reflect.Value, key string, node ast.Node) {
	pairs, ok := entries(node)
	if !ok {
		l.fault(key, "must be a section of keys, not %s", kindOf(node))
		return
	}
	fields := fieldsOf(v.Type())
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	for _, pair := range pairs {
		name := nameOf(pair)
		found := false
		for _, f := range fields {
			if f.name == name {
				l.set(v.FieldByIndex(f.index), l.at(key, name, pair), pair.Value)
				found = true
			}
		}
		if !found {
			l.fault(l.at(key, name, pair), "%s", unknownKey(name, names))
		}
	}
}

// at returns the key of a pair and remembers on which line it stands.
func (l *loader) at(prefix, name string, pair *ast.MappingValueNode) string {
	key := joinKey(prefix, name)
	if token := pair.Key.GetToken(); token != nil && token.Position != nil && l.inFile {
		l.lines[key] = token.Position.Line
	}
	return key
}

func nameOf(pair *ast.MappingValueNode) string {
	if s, ok := pair.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return strings.TrimSpace(pair.Key.String())
}

func (l *loader) setList(v reflect.Value, key string, node ast.Node) {
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		l.fault(key, "must be a %s, not %s", typeName(v.Type()), kindOf(node))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		at := fmt.Sprintf("%s[%d]", key, i)
		l.fresh(list.Index(i), at)
		l.set(list.Index(i), at, item)
	}
	v.Set(list)
}

func (l *loader) setMap(v reflect.Value, key string, node ast.Node) {
	pairs, ok := entries(node)
	if !ok {
		l.fault(key, "must be a %s, not %s", typeName(v.Type()), kindOf(node))
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(pairs))
	for _, pair := range pairs {
		name := nameOf(pair)
		at := l.at(key, name, pair)
		item := reflect.New(v.Type().Elem()).Elem()
		l.fresh(item, at)
		l.set(item, at, pair.Value)
		out.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), item)
	}
	v.Set(out)
}

func (l *loader) setScalar(v reflect.Value, key string, node ast.Node) {
	text, quoted, ok := scalarText(node)
	if !ok {
		l.fault(key, "must be a %s, not %s", typeName(v.Type()), kindOf(node))
		return
	}
	if quoted && v.Kind() == reflect.Bool {
		l.fault(key, "must be true or false, not text")
		return
	}
	if err := parseScalar(v, text); err != nil {
		l.fault(key, "%s", err)
	}
}

// scalarText is the text of a scalar as it stands in the file, so that a user name of 0123 stays what it is.
func scalarText(node ast.Node) (text string, quoted, ok bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return node.GetToken().Value, false, true
	default:
		return "", false, false
	}
}

func kindOf(node ast.Node) string {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	default:
		return "something else"
	}
}

// parseScalar reads one word into v.
func parseScalar(v reflect.Value, text string) error {
	if v.Type() == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("must be a duration with its unit, for example 500ms, 30s, 24h")
		}
		v.SetInt(int64(d))
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("must be a valid %s: %w", typeName(v.Type()), err)
		}
		return nil
	}
	if v.Type() == secretType && text == hidden {
		// Otherwise a printed configuration, used as it is, would have secrets that everybody knows.
		return errors.New("is hidden here: put in the secret itself, or remove the key")
	}
	wrong := fmt.Errorf("must be a %s", typeName(v.Type()))
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("must be true or false")
		}
		v.SetBool(text == "true")
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil || f != f {
			return wrong
		}
		v.SetFloat(f)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return outOfRange(err, wrong)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return outOfRange(err, errors.New("must be a whole number of at least 0"))
		}
		v.SetUint(n)
	default:
		return wrong
	}
	return nil
}

func outOfRange(err, otherwise error) error {
	if errors.Is(err, strconv.ErrRange) {
		return errors.New("is out of range")
	}
	return otherwise
}
