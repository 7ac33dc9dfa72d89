package systest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testcert"
	"github.com/penstockmq/penstock/internal/testenv"
	"github.com/penstockmq/penstock/internal/testnode"
)

// roundTripJS connects two clients to argv[1] with the protocol version argv[2], sends a message at each QoS and a
// retained one from one to the other, and prints what arrived. argv[3] is a file with the server's authority.
const roundTripJS = `
const mqtt = require('mqtt'), fs = require('fs');
const [, , url, version, ca] = process.argv;
const options = {
  protocolVersion: Number(version), reconnectPeriod: 0, connectTimeout: 30000,
  protocolId: 'MQTT', ca: ca ? fs.readFileSync(ca) : undefined,
};
(async () => {
  const name = 'js-' + new URL(url).protocol.replace(':', '') + version;
  const sub = await mqtt.connectAsync(url, { ...options, clientId: name + '-sub' });
  const pub = await mqtt.connectAsync(url, { ...options, clientId: name + '-pub' });
  const got = [];
  const all = new Promise((resolve) => sub.on('message', (topic, payload, packet) => {
    got.push({ topic, payload: payload.toString('utf8', 0, 20), size: payload.length, qos: packet.qos,
      retain: packet.retain, user: packet.properties?.userProperties?.site });
    if (got.length === 5) resolve();
  }));
  const properties = version === '5' ? { userProperties: { site: 'nord' } } : undefined;
  await pub.publishAsync(name + '/kept', 'kept', { qos: 1, retain: true });
  await sub.subscribeAsync(name + '/#', { qos: 2 });
  for (const qos of [0, 1, 2]) await pub.publishAsync(name + '/x', 'grüße ' + qos, { qos, properties });
  await pub.publishAsync(name + '/big', Buffer.alloc(700000, 'b'), { qos: 1 });
  await all;
  await pub.endAsync();
  await sub.endAsync();
  console.log(JSON.stringify(got));
})().catch((err) => { console.error(err); process.exit(1); });
`

func TestMQTTJSOverWebSocket(t *testing.T) {
	t.Parallel()
	nodeJS := testenv.Need(t, "node")
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	modules := filepath.Join(cache, "penstock-test", "mqttjs", "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "mqtt")); err != nil {
		testenv.Missing(t, "mqtt.js")
	}
	ca, dir := testcert.New(t), t.TempDir()
	cert, key := ca.Server(t, dir)
	ws, wss := testnode.Address(), testnode.Address()
	n := startNode(t, sections{"listeners": fmt.Sprintf(
		`[{type: ws, address: %q}, {type: wss, address: %q, path: /secure, cert: %q, key: %q}]`, ws, wss, cert, key)})
	script := n.File("roundtrip.js", roundTripJS)
	for _, url := range []string{"ws://" + ws + "/mqtt", "wss://" + wss + "/secure"} {
		for _, version := range []string{"4", "5"} {
			t.Run(fmt.Sprintf("%.3s protocol %s", url, version), func(t *testing.T) {
				cmd := exec.CommandContext(timely(t), nodeJS, script, url, version, ca.File)
				cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, string(out))
				checkRoundTripJS(t, out, version == "5")
			})
		}
	}
}

func checkRoundTripJS(t *testing.T, out []byte, properties bool) {
	type message struct {
		Topic, Payload string
		Size           int
		QoS            int
		Retain         bool
		User           string
	}
	var got []message
	require.NoError(t, json.Unmarshal(out, &got), string(out))
	require.Len(t, got, 5)
	require.True(t, got[0].Retain)
	require.Equal(t, "kept", got[0].Payload)
	for qos, m := range got[1:4] {
		require.Equal(t, fmt.Sprint("grüße ", qos), m.Payload)
		require.Equal(t, qos, m.QoS)
		require.False(t, m.Retain)
		if properties {
			require.Equal(t, "nord", m.User)
		}
	}
	require.Equal(t, 700_000, got[4].Size)
}
