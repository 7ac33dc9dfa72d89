package conf

import (
	"encoding"
	"net/netip"
	"reflect"
	"strings"
	"time"
)

// field is one configuration key of a struct.
type field struct {
	name       string // its key
	def        string // text of the default; empty: the zero value
	hasDefault bool
	doc        string
	index      []int
}

// fieldsOf lists the keys of a section's struct in their order. Embedded structs add their keys to the same level.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case option == "inline" && f.Type.Kind() == reflect.Struct:
			for _, sub := range fieldsOf(f.Type) {
				sub.index = append([]int{i}, sub.index...)
				out = append(out, sub)
			}
		case !f.IsExported() || name == "" || name == "-":
		default:
			def, has := f.Tag.Lookup("default")
			out = append(out, field{name: name, def: def, hasDefault: has, doc: f.Tag.Get("doc"), index: []int{i}})
		}
	}
	return out
}

var (
	durationType  = reflect.TypeFor[time.Duration]()
	secretType    = reflect.TypeFor[Secret]()
	byteSizeType  = reflect.TypeFor[ByteSize]()
	prefixType    = reflect.TypeFor[netip.Prefix]()
	unmarshalText = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isScalar reports whether a value of t is written as one word.
func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(unmarshalText) {
		return true
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map, reflect.Pointer, reflect.Interface:
		return false
	default:
		return true
	}
}

// isSection reports whether t is a struct of further keys.
func isSection(t reflect.Type) bool { return t.Kind() == reflect.Struct && !isScalar(t) }

// typeName is what the reference calls t.
func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t == secretType:
		return "secret"
	case t == byteSizeType:
		return "size"
	case t == prefixType:
		return "address range"
	case t.Kind() == reflect.Pointer:
		return typeName(t.Elem())
	case isSection(t):
		return "section"
	case t.Kind() == reflect.Slice:
		return "list of " + plural(typeName(t.Elem()))
	case t.Kind() == reflect.Map:
		return "map of " + plural(typeName(t.Elem()))
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "whole number"
	default:
		return "text"
	}
}

func plural(name string) string {
	switch name {
	case "text", "true or false":
		return name
	default:
		return name + "s"
	}
}

// envName is the environment variable of a key path such as auth.token.secret.
func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(path))
}
