package node_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/conf"
	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/node"
)

const examples = "../testdata/config"

// readmeYAML is the configuration that the README shows.
func readmeYAML(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	require.True(t, found)
	yaml, rest, found := strings.Cut(rest, "```")
	require.True(t, found)
	require.NotContains(t, rest, "```yaml", "a second example needs a test as well")
	return yaml
}

// TestExamplesAreConfigurationsOfANode makes a node of each, so that its files are read and its ports opened.
func TestExamplesAreConfigurationsOfANode(t *testing.T) {
	texts := map[string]string{"README.md": readmeYAML(t)}
	files, err := filepath.Glob(examples + "/*.yaml")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		texts[filepath.Base(file)] = string(text)
	}
	require.Len(t, texts, 5)
	dir := t.TempDir()
	authority := testcert.New(t)
	authority.Server(t, dir)
	require.NoError(t, os.Rename(authority.File, filepath.Join(dir, "ca.pem")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "acl.yaml"), []byte(texts["acl.yaml"]), 0o600))
	delete(texts, "acl.yaml")
	delete(texts, "invalid.yaml")
	t.Chdir(dir) // where the examples look for certificates and rules
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			cfg, err := node.LoadConfig(conf.Source{Name: name, YAML: []byte(text)})
			require.NoError(t, err)
			cfg.Node.Data = t.TempDir()
			cfg.HTTP.Address = "127.0.0.1:0"
			for i := range cfg.Listeners {
				cfg.Listeners[i].Address = "127.0.0.1:0"
			}
			n, err := node.New(cfg, io.Discard)
			require.NoError(t, err)
			assert.NotEmpty(t, n.Admits(), "an example shows how somebody can connect")
			assert.NoError(t, n.Stop(t.Context()))
		})
	}
}

func TestAllFaultsOfAnExampleAreReportedTogether(t *testing.T) {
	text, err := os.ReadFile(examples + "/invalid.yaml")
	require.NoError(t, err)
	_, err = node.LoadConfig(conf.Source{Name: "invalid.yaml", YAML: text})
	assert.EqualError(t, err, `configuration has 16 faults:
  invalid.yaml:2: node.stop_timeout: must be a duration with its unit, for example 500ms, 30s, 24h
  invalid.yaml:2: node.name: must be 1 to 64 letters, digits, dots, underscores and hyphens
  invalid.yaml:5: listeners[1].cert: is needed for type tls
  invalid.yaml:6: listeners[2].type: must be tcp, tls, ws or wss
  invalid.yaml:6: listeners[2].address: must be host:port, for example 127.0.0.1:1883 or :1883
  invalid.yaml:7: listeners[3].path: must begin with /
  invalid.yaml:7: listeners[3].address: is the same as listeners[0].address
  invalid.yaml:8: http.adress: unknown key (did you mean address?)
  invalid.yaml:8: http.admin_token: must have at least 8 characters; 16 random ones are advised
  invalid.yaml:10: auth.users.alice: is not an argon2id hash such as $argon2id$v=19$m=19456,t=2,p=1$salt$hash
  invalid.yaml:11: auth.products[1].key: is there twice
  invalid.yaml:11: auth.products[1].secret: is missing
  invalid.yaml:12: limits.packet_size: must be a valid size: "1 GB of data" is not a size in bytes: write for example `+
		`512, 64KiB or 1MiB
  invalid.yaml:12: limits.queue: must be a whole number
  invalid.yaml:12: limits.topic_levels: must be between 4 and 65535
  invalid.yaml:13: clustr: unknown key (known here: node, listeners, http, auth, acl, access, limits, uplink, kafka, `+
		`spool, commands, log)`)
}
