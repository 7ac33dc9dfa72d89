// Package rules holds tests of the house's own rules, which the compiler does not know.
package rules

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/penstockmq/penstock/"

// mayImport says which of our packages the packages below a folder may import; the longest folder that fits counts.
// A folder may always import what is below itself.
var mayImport = map[string][]string{
	// Of hooks, only what a subcommand prints or hashes.
	"cmd":  {"node", "internal", "hooks/auth", "hooks/command"},
	"node": {"hooks", "bridge", "cluster", "console", "store", "broker", "internal"},
	// Hooks and bridge: whose calls it offers over HTTP.
	"console": {"hooks", "bridge", "broker", "internal"},
	"hooks":   {"broker", "internal"},
	"bridge":  {"hooks/uplink", "broker", "internal"},
	"cluster": {"broker", "internal"},
	// Hooks and bridge: whose interfaces it implements.
	"store":          {"hooks/auth", "hooks/command", "hooks/uplink", "bridge", "broker", "internal"},
	"broker":         {},
	"broker/timer":   {},
	"broker/topic":   {},
	"broker/wire":    {},
	"broker/listen":  {},
	"internal":       {},
	"internal/bench": {"broker/wire", "internal"},
}

// onlyIn says in which folders a library may be known; the longest name that fits counts.
var onlyIn = map[string][]string{
	"github.com/IBM/sarama":           {"bridge"},
	"github.com/cockroachdb/pebble":   {"store/local"},
	"github.com/redis/go-redis":       {"store/redis"},
	"github.com/hashicorp/memberlist": {"cluster"},
	"github.com/mochi-mqtt/server":    {"broker", "hooks"},
	// The codec's types stand in the interfaces of package broker (user properties, reason codes), so whoever
	// implements those has to name them.
	"github.com/mochi-mqtt/server/v2/packets": {"broker", "hooks", "bridge", "store"},
	"github.com/spf13/cobra":                  {"cmd"},
	"github.com/danielgtaylor/huma":           {"console"},
	"github.com/goccy/go-yaml":                {"internal/conf"},
	"github.com/prometheus/client_golang":     {"hooks", "bridge", "cluster", "console", "store", "node"},
	"github.com/stretchr/testify":             {},
	"github.com/twmb/franz-go":                {},
	"github.com/eclipse/paho.mqtt.golang":     {},
	"github.com/eclipse/paho.golang":          {"node/demo"},
	"github.com/HdrHistogram":                 {"internal/bench"},
	"github.com/vbauerster/mpb":               {"cmd"},
}

// imported is one import of one file.
type imported struct{ file, path string }

func imports(t *testing.T, tests bool) []imported {
	t.Helper()
	var out []imported
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") != tests {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			out = append(out, imported{filepath.ToSlash(name), target})
		}
		return nil
	})
	require.NoError(t, err)
	return out
}

func below(name, folder string) bool { return name == folder || strings.HasPrefix(name, folder+"/") }

// forTests reports whether a file is in a package of test code that several packages share, such as store/storetest.
func forTests(file string) bool {
	name := path.Base(path.Dir(file))
	return strings.HasPrefix(name, "test") || strings.HasSuffix(name, "test")
}

func TestImportsPointOneWay(t *testing.T) {
	all := imports(t, false)
	require.NotEmpty(t, all)
	for _, i := range all {
		target, ours := strings.CutPrefix(i.path, module)
		if !ours || forTests(i.file) {
			continue
		}
		from := ""
		for folder := range mayImport {
			if below(i.file, folder) && len(folder) > len(from) {
				from = folder
			}
		}
		if !assert.NotEmpty(t, from, "%s is in no folder of the house", i.file) {
			continue
		}
		allowed := below(target, from) ||
			slices.ContainsFunc(mayImport[from], func(f string) bool { return below(target, f) })
		assert.True(t, allowed, "%s may not import %s", i.file, target)
	}
}

func TestLibrariesAreKnownWhereTheyBelong(t *testing.T) {
	for _, i := range imports(t, false) {
		library := ""
		for name := range onlyIn {
			if below(i.path, name) && len(name) > len(library) {
				library = name
			}
		}
		if library == "" || forTests(i.file) {
			continue
		}
		known := slices.ContainsFunc(onlyIn[library], func(f string) bool { return below(i.file, f) })
		assert.True(t, known, "%s may not import %s: only %v know it", i.file, i.path, onlyIn[library])
	}
}

func TestHooksDoNotKnowEachOther(t *testing.T) {
	for _, i := range imports(t, false) {
		target, ours := strings.CutPrefix(i.path, module)
		if ours && below(i.file, "hooks") && below(target, "hooks") {
			assert.True(t, below(target, path.Dir(i.file)), "%s may not import %s", i.file, target)
		}
	}
}

func TestBrokerImportsNothingOfOurs(t *testing.T) {
	for _, i := range imports(t, false) {
		target, ours := strings.CutPrefix(i.path, module)
		if ours && below(i.file, "broker") {
			assert.True(t, below(target, "broker"), "%s may not import %s", i.file, target)
			assert.NotEqual(t, "broker", target, "%s may not import its parent", i.file)
		}
	}
}
