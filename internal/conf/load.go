package conf

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds what is read as a configuration, in bytes.
const maxFile = 4 << 20

// Source is where a configuration comes from.
type Source struct {
	Name string   // of the file, for messages
	YAML []byte   // contents of the file; empty: only defaults and environment
	Env  []string // as os.Environ gives it; nil: no overrides
}

// ReadSource reads the file and takes the process's environment. An empty file name means no file.
func ReadSource(file string) (Source, error) {
	src := Source{Name: file, Env: os.Environ()}
	if file == "" {
		return src, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return src, fmt.Errorf("read configuration: %w", err)
	}
	src.YAML = text
	return src, nil
}

// Load fills into, a pointer to a struct of sections: defaults first, then the file, then the environment; and then
// calls every Validate. What it finds wrong comes back together, as Faults. It does not block.
func Load(src Source, into any) error {
	root, err := rootOf(into)
	if err != nil {
		return err
	}
	l := &loader{origin: src.Name, lines: map[string]int{}, origins: map[string]string{}}
	l.defaults(root, "")
	l.file(src.YAML, root)
	l.environment(src.Env, root)
	l.unread = make(map[string]bool, len(l.faults))
	for _, f := range l.faults {
		l.unread[f.Key] = true
	}
	l.validate(root, "")
	if len(l.faults) > 0 {
		return l.faults.sorted()
	}
	return nil
}

// SetDefaults fills into with the defaults of its tags. It fails only on tags that do not parse, which is a bug.
func SetDefaults(into any) error { return Load(Source{}, into) }

// Check calls every Validate of a configuration that was made by code, and returns what they report as Faults.
func Check(config any) error {
	root, err := rootOf(config)
	if err != nil {
		return err
	}
	l := &loader{}
	l.validate(root, "")
	if len(l.faults) > 0 {
		return l.faults
	}
	return nil
}

func rootOf(into any) (reflect.Value, error) {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return v, fmt.Errorf("configuration must be a pointer to a struct, not %T", into)
	}
	return v.Elem(), nil
}

type loader struct {
	origin  string            // the file's name
	inFile  bool              // what is being set comes from the file
	lines   map[string]int    // key path → line in the file
	origins map[string]string // key path → environment variable that set it
	unread  map[string]bool   // key path → its value could not be read, so there is nothing to validate
	faults  Faults
}

// fault reports a problem of a key, at the place where the key was set.
func (l *loader) fault(key, format string, args ...any) {
	f := Fault{Key: key, Problem: fmt.Sprintf(format, args...)}
	for at := key; at != "" && f.Origin == ""; at = parentKey(at) {
		if name, ok := l.origins[at]; ok {
			f.Origin = name
		} else if line, ok := l.lines[at]; ok {
			f.Origin, f.Line = l.origin, line
		}
	}
	l.faults = append(l.faults, f)
}

func parentKey(key string) string {
	if i := strings.LastIndexAny(key, ".["); i > 0 {
		return key[:i]
	}
	return ""
}

func joinKey(prefix, name string) string {
	if prefix == "" || name == "" {
		return prefix + name
	}
	if strings.HasPrefix(name, "[") {
		return prefix + name
	}
	return prefix + "." + name
}

func (l *loader) defaults(v reflect.Value, prefix string) {
	for _, f := range fieldsOf(v.Type()) {
		target, key := v.FieldByIndex(f.index), joinKey(prefix, f.name)
		switch {
		case isSection(target.Type()):
			l.defaults(target, key)
		case f.hasDefault && f.def != "":
			l.setText(target, key, f.def)
		}
	}
}

func (l *loader) file(text []byte, root reflect.Value) {
	if len(text) > maxFile {
		l.faults = append(l.faults, Fault{Origin: l.origin, Problem: "the file is larger than 4 MiB"})
		return
	}
	node, fault := parse(text)
	if fault != nil {
		fault.Origin = l.origin
		l.faults = append(l.faults, *fault)
		return
	}
	if node != nil {
		l.inFile = true
		l.set(root, "", node)
		l.inFile = false
	}
}

// parse reads one YAML document; a nil node is an empty one.
func parse(text []byte) (ast.Node, *Fault) {
	if depth(text) > maxDepth {
		return nil, &Fault{Problem: "nested too deeply"}
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		fault := &Fault{Problem: "not valid YAML: " + err.Error()}
		if located := yaml.Error(nil); errors.As(err, &located) {
			fault.Problem = "not valid YAML: " + located.GetMessage()
			if token := located.GetToken(); token != nil && token.Position != nil {
				fault.Line = token.Position.Line
			}
		}
		return nil, fault
	}
	docs := slices.DeleteFunc(file.Docs, func(d *ast.DocumentNode) bool { return d == nil || d.Body == nil })
	switch {
	case len(docs) == 0 || docs[0].Body.Type() == ast.CommentType:
		return nil, nil
	case len(docs) > 1:
		return nil, &Fault{Problem: "holds more than one YAML document"}
	}
	return docs[0].Body, nil
}

const maxDepth = 64

// depth bounds how deep the parser may recurse: it counts brackets, and block indicators on one line.
func depth(text []byte) int {
	deepest, open, dashes := 0, 0, 0
	for i, c := range text {
		switch c {
		case '[', '{':
			open++
		case ']', '}':
			open = max(0, open-1)
		case '\n':
			dashes = 0
		case '-', '?', ':', '!', '&':
			if i+1 < len(text) && (text[i+1] == ' ' || text[i+1] == '\t') || c == '!' || c == '&' {
				dashes++
			}
		}
		deepest = max(deepest, open, dashes)
	}
	return deepest
}

// validator is what a section implements to check more than types. Keys are relative to the section.
type validator interface {
	Validate(report func(key, problem string))
}

func (l *loader) validate(v reflect.Value, prefix string) {
	switch {
	case v.Kind() == reflect.Pointer:
		if !v.IsNil() {
			l.validate(v.Elem(), prefix)
		}
		return
	case v.Kind() == reflect.Slice && !isScalar(v.Type().Elem()):
		for i := range v.Len() {
			l.validate(v.Index(i), fmt.Sprintf("%s[%d]", prefix, i))
		}
		return
	case !isSection(v.Type()):
		return
	}
	for _, f := range fieldsOf(v.Type()) {
		l.validate(v.FieldByIndex(f.index), joinKey(prefix, f.name))
	}
	if check, ok := v.Addr().Interface().(validator); ok {
		check.Validate(func(key, problem string) {
			if key = joinKey(prefix, key); !l.unread[key] {
				l.fault(key, "%s", problem)
			}
		})
	}
}
