package conf

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

const envPrefix = "PENSTOCK_"

// Kubernetes sets such variables for every service, also for one that is called penstock-http.
var serviceVariable = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT(_\d+_(TCP|UDP)(_|$)|$)`)

// environment applies the variables that belong to keys. A variable that begins like a section but is no key of it is
// a fault; others that begin with PENSTOCK_ are somebody else's.
func (l *loader) environment(env []string, root reflect.Value) {
	values := make(map[string]string)
	for _, pair := range env {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, envPrefix) {
			values[name] = value
		}
	}
	if len(values) == 0 {
		return
	}
	known := l.override(root, "", values)
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if slices.Contains(known, name) || !inSection(name, root.Type()) || serviceVariable.MatchString(name) {
			continue
		}
		problem := "no key has this variable"
		if near := suggest(name, known); near != "" {
			problem += " (did you mean " + near + "?)"
		}
		l.faults = append(l.faults, Fault{Origin: name, Problem: problem})
	}
}

// override sets the keys below prefix that have a variable and returns the names of all variables that they could have.
func (l *loader) override(v reflect.Value, prefix string, values map[string]string) []string {
	var known []string
	for _, f := range fieldsOf(v.Type()) {
		target, key := v.FieldByIndex(f.index), joinKey(prefix, f.name)
		if isSection(target.Type()) {
			known = append(known, l.override(target, key, values)...)
			continue
		}
		name := envName(key)
		known = append(known, name)
		if text, ok := values[name]; ok {
			l.origins[key] = name
			maps.DeleteFunc(l.lines, func(k string, _ int) bool {
				return k == key || strings.HasPrefix(k, key+"[") || strings.HasPrefix(k, key+".")
			})
			l.setText(target, key, text)
		}
	}
	return known
}

func inSection(name string, root reflect.Type) bool {
	for _, f := range fieldsOf(root) {
		t := root.FieldByIndex(f.index).Type
		if name == envName(f.name) || isSection(t) && strings.HasPrefix(name, envName(f.name)+"_") {
			return true
		}
	}
	return false
}

// setText stores what a default tag or a variable says: a scalar as it is, a list of scalars separated by commas, and
// anything else as YAML (of which JSON is a part).
func (l *loader) setText(v reflect.Value, key, text string) {
	t := v.Type()
	trimmed := strings.TrimSpace(text)
	switch {
	case isScalar(t):
		if err := parseScalar(v, text); err != nil {
			l.fault(key, "%s", err)
		}
	case trimmed == "":
		v.SetZero()
	case t.Kind() == reflect.Slice && isScalar(t.Elem()) && !strings.HasPrefix(trimmed, "["):
		parts := strings.Split(text, ",")
		list := reflect.MakeSlice(t, len(parts), len(parts))
		for i, part := range parts {
			if err := parseScalar(list.Index(i), strings.TrimSpace(part)); err != nil {
				l.fault(key, "%s", err)
			}
		}
		v.Set(list)
	default:
		node, fault := parse([]byte(text))
		if fault != nil {
			l.fault(key, "%s", fault.Problem)
			return
		}
		if node != nil {
			l.set(v, key, node)
		}
	}
}
