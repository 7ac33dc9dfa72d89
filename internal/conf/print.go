package conf

import (
	"encoding"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Print writes the configuration as YAML that Load reads. Secrets are hidden, which Load refuses. With docs, each key
// carries its documentation as a comment.
func Print(w io.Writer, config any, docs bool) error {
	root, err := rootOf(config)
	if err != nil {
		return err
	}
	p := &printer{docs: docs}
	p.section(root, 0)
	_, err = io.WriteString(w, p.out.String())
	return err
}

type printer struct {
	out  strings.Builder
	docs bool
}

func (p *printer) section(v reflect.Value, indent int) {
	pad := strings.Repeat("  ", indent)
	for i, f := range fieldsOf(v.Type()) {
		if p.docs && indent == 0 && i > 0 {
			p.out.WriteByte('\n')
		}
		if p.docs && f.doc != "" {
			for _, line := range wrap(f.doc, 110-len(pad)) {
				p.out.WriteString(pad + "# " + line + "\n")
			}
		}
		p.out.WriteString(pad + f.name + ":")
		p.value(v.FieldByIndex(f.index), indent+1)
	}
}

// value writes what stands behind "key:" or "-", with the end of the line.
func (p *printer) value(v reflect.Value, indent int) {
	pad := strings.Repeat("  ", indent)
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		p.out.WriteString(" null\n")
	case v.Kind() == reflect.Pointer:
		p.value(v.Elem(), indent)
	case isScalar(v.Type()):
		p.out.WriteString(" " + quote(scalarString(v)) + "\n")
	case v.Kind() == reflect.Slice:
		p.list(v, indent, pad)
	case v.Kind() == reflect.Map:
		p.mapping(v, indent, pad)
	default:
		p.out.WriteByte('\n')
		p.section(v, indent)
	}
}

func (p *printer) list(v reflect.Value, indent int, pad string) {
	if v.Len() == 0 {
		p.out.WriteString(" []\n")
		return
	}
	p.out.WriteByte('\n')
	for i := range v.Len() {
		item := v.Index(i)
		if !isSection(item.Type()) {
			p.out.WriteString(pad + "-")
			p.value(item, indent+1)
			continue
		}
		// A section's first key stands on the line of its dash.
		sub := &printer{}
		sub.section(item, indent+1)
		p.out.WriteString(pad + "- " + strings.TrimPrefix(sub.out.String(), pad+"  "))
	}
}

func (p *printer) mapping(v reflect.Value, indent int, pad string) {
	if v.Len() == 0 {
		p.out.WriteString(" {}\n")
		return
	}
	p.out.WriteByte('\n')
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, k := range keys {
		p.out.WriteString(pad + quote(k.String(), true) + ":")
		p.value(v.MapIndex(k), indent+1)
	}
}

// scalarString is the text of a scalar, and whether it is text to YAML too.
func scalarString(v reflect.Value) (text string, isText bool) {
	switch {
	case v.Type() == durationType:
		return formatDuration(time.Duration(v.Int())), false
	case v.Type() == secretType:
		return Secret(v.String()).String(), true
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if out, err := m.MarshalText(); err == nil {
			return string(out), string(out) == ""
		}
	}
	if v.Kind() == reflect.String {
		return v.String(), true
	}
	return fmt.Sprint(v.Interface()), false
}

func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// quote writes a scalar so that YAML reads the same text back.
func quote(text string, isText bool) string {
	if !isText {
		return text
	}
	if plainText(text) {
		if out, err := yaml.Marshal(text); err == nil && !strings.ContainsAny(string(out[:len(out)-1]), "\n") {
			return strings.TrimSpace(string(out))
		}
	}
	return strconv.Quote(text)
}

// plainText reports whether YAML's own quoting can be trusted with text: one line of printable ASCII.
func plainText(text string) bool {
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || c == '\\' {
			return false
		}
	}
	return text != ""
}

func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
