package conf

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Markdown writes the reference of all keys of config, a pointer to a struct of sections.
func Markdown(w io.Writer, config any) error {
	root, err := rootOf(config)
	if err != nil {
		return err
	}
	var out strings.Builder
	for _, f := range fieldsOf(root.Type()) {
		t := root.FieldByIndex(f.index).Type()
		fmt.Fprintf(&out, "\n## %s\n\n", f.name)
		if f.doc != "" {
			out.WriteString(f.doc + "\n\n")
		}
		out.WriteString("| key | type | default | what it does |\n|---|---|---|---|\n")
		if isSection(t) {
			documentSection(&out, t, f.name, true)
		} else {
			documentKey(&out, f, t, f.name, true)
		}
	}
	_, err = io.WriteString(w, out.String())
	return err
}

func documentSection(out *strings.Builder, t reflect.Type, prefix string, env bool) {
	for _, f := range fieldsOf(t) {
		documentKey(out, f, t.FieldByIndex(f.index).Type, joinKey(prefix, f.name), env)
	}
}

// documentKey writes the row of a key and those of what is nested in it. Elements of lists and maps have no variable.
func documentKey(out *strings.Builder, f field, t reflect.Type, key string, env bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if isSection(t) {
		documentSection(out, t, key, env)
		return
	}
	fmt.Fprintf(out, "| `%s`", key)
	if env {
		fmt.Fprintf(out, "<br>`%s`", envName(key))
	}
	fmt.Fprintf(out, " | %s | %s | %s |\n", typeName(t), defaultCell(f, t), cell(f.doc))
	switch {
	case t.Kind() == reflect.Slice && isSection(t.Elem()):
		documentSection(out, t.Elem(), key+"[]", false)
	case t.Kind() == reflect.Map && isSection(t.Elem()):
		documentSection(out, t.Elem(), key+".*", false)
	}
}

func defaultCell(f field, t reflect.Type) string {
	switch {
	case f.def != "":
		return "`" + cell(f.def) + "`"
	case t.Kind() == reflect.Bool:
		return "`false`"
	case t == durationType:
		return "`0s`"
	case typeName(t) == "whole number", typeName(t) == "number", typeName(t) == "size":
		return "`0`"
	default:
		return "–"
	}
}

func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }
