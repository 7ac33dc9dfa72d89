package broker_test

import (
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

// The name of a topic that is given an alias must not lie in its publisher's read buffer, which the next packet
// overwrites.
func TestAliasesOutliveTheReadBuffer(t *testing.T) {
	n := startNode(t, broker.Options{})
	sub, pub := n.dial(5), n.dial(5)
	sub.MustConnect("sub", func(pk *packets.Packet) { pk.Properties.TopicAliasMaximum = 10 })
	sub.Subscribe(0, "#")
	pub.MustConnect("pub")
	names := map[uint16]string{}
	for _, name := range strings.Fields(strings.Repeat("t/a t/b t/c ", 10)) {
		pub.Publish(name, name, 0, 0)
		pk := sub.Expect(packets.Publish)
		if pk.TopicName != "" {
			names[pk.Properties.TopicAlias] = pk.TopicName
		} else {
			pk.TopicName = names[pk.Properties.TopicAlias]
		}
		if pk.TopicName != name {
			t.Fatalf("%q was delivered as %q", name, pk.TopicName)
		}
	}
}
