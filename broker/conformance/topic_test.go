package conformance

import (
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
	"github.com/penstockmq/penstock/internal/testmqtt"
)

// Topic names and topic filters: section 4.7.

func multiLevelWildcard(e *env) {
	for _, bad := range []string{"a/b#", "a#", "#/a", "a/#/b", "##", "a/##", "a/#/", "+#"} {
		e.refusesFilter(bad)
		e.refusesFilter(e.topic(bad))
	}
	e.matches("a/#", []string{"a", "a/b", "a/b/c", "a/"}, []string{"b", "ab", "b/a"})
}

func singleLevelWildcard(e *env) {
	for _, bad := range []string{"a+", "+a", "a/b+", "a/+b/c", "++", "a/++"} {
		e.refusesFilter(bad)
		e.refusesFilter(e.topic(bad))
	}
	e.matches("+", []string{"a", ""}, []string{"a/b", "a/"})
	e.matches("+/b", []string{"a/b", "/b"}, []string{"a/b/c", "b", "a/c"})
	e.matches("a/+/c", []string{"a/b/c", "a//c"}, []string{"a/c", "a/b/d/c"})
	e.matches("+/+", []string{"a/b", "/", "a/", "/b"}, []string{"a", "a/b/c"})
	e.matches("+/b/#", []string{"a/b", "a/b/c"}, []string{"b", "a/c/b"})
}

// matches: a filter matches these names and not those, for a live message and for a retained one.
func (e *env) matches(filter string, yes, no []string) {
	e.Helper()
	sub, pub := e.subscriber("sub", 0, e.topic(filter)), e.connect("pub")
	for _, name := range append(append([]string{}, no...), yes...) {
		e.retain(pub, e.topic(name), name, 0)
	}
	for _, name := range yes {
		sub.ExpectPublish(e.topic(name), name)
	}
	sub.Nothing()
	e.leave(sub)
	want := []string{}
	for _, name := range yes {
		if name != "" { // an empty payload is not retained
			want = append(want, name)
		}
	}
	require.ElementsMatch(e, want, e.lateSubscriber("late", e.topic(filter)), filter)
	for _, name := range append(append([]string{}, no...), yes...) {
		e.retain(pub, e.topic(name), "", 0)
	}
}

// dollarTopics are the server's own: a wildcard in the first level does not match them, and one that comes later does.
func dollarTopics(e *env) {
	own := e.alone(broker.Options{})
	subs := map[string]*testmqtt.Client{}
	filters := []string{"#", "+/a", "+/#", "$own/#", "$own/+"}
	if e.v5() {
		filters = append(filters, "$share/g/#")
	}
	for _, filter := range filters {
		subs[filter] = own.connect("sub" + filter)
		subs[filter].Subscribe(0, filter)
	}
	done := make(chan error, 1)
	own.Publish(&broker.Message{Topic: "$own/a", Payload: []byte("x"), Retain: true}, func(err error) { done <- err })
	require.NoError(e, <-done)
	for _, filter := range []string{"$own/#", "$own/+"} {
		subs[filter].ExpectPublish("$own/a", "x")
	}
	for _, sub := range subs {
		sub.Nothing()
	}
	for i, filter := range []string{"#", "+/a", "+/#"} {
		require.Empty(e, own.lateSubscriber(strings.Repeat("l", i+1), filter), filter)
	}
	require.Equal(e, []string{"x"}, own.lateSubscriber("late", "$own/#"))
}

func emptyTopics(e *env) {
	e.breaks("topic name", e.rawPublish(0x30, "", nil, e.props(), "x"), 0x81, 0x82, 0x90)
	e.breaks("filter", e.rawSubscribe("", 0), 0x81, 0x82, 0x8F)
	e.breaks("filter to be removed", e.rawUnsubscribe(""), 0x81, 0x82, 0x8F)
	own := e.alone(broker.Options{})
	sub, pub := own.subscriber("sub", 0, "/", " "), own.connect("pub")
	own.publish(pub, "/", "x", 0)
	sub.ExpectPublish("/", "x")
	own.publish(pub, " ", "x", 0)
	sub.ExpectPublish(" ", "x")
}

func nulInTopics(e *env) {
	e.breaks("topic name", e.rawPublish(0x30, "a\x00b", nil, e.props(), "x"), 0x81)
	e.breaks("filter", e.rawSubscribe("a/\x00", 0), 0x81)
	e.breaks("filter to be removed", e.rawUnsubscribe("\x00"), 0x81)
}

// longTopics: as long as the length prefix allows.
func longTopics(e *env) {
	long := e.topic(strings.Repeat("é", 32_000))
	long += strings.Repeat("x", 65_535-len(long))
	sub, pub := e.subscriber("sub", 1, long), e.connect("pub")
	e.publish(pub, long, "x", 1)
	e.take(sub, long, "x", 1)
}

// namesAreNotChanged: they are compared byte by byte, and case, spaces, empty levels and composed characters count.
func namesAreNotChanged(e *env) {
	names := []string{"Accounts", "ACCOUNTS", "a b", "a  b", "/a", "a", "a/", "a//", "\u00E9", "e\u0301", "\u212B",
		"\u00C5", ".", "..", "%61"}
	pub := e.connect("pub")
	subs := make([]*testmqtt.Client, len(names))
	for i, name := range names {
		subs[i] = e.subscriber(string(rune('a'+i)), 0, e.topic(name))
	}
	for i, name := range names {
		e.publish(pub, e.topic(name), name, 0)
		subs[i].ExpectPublish(e.topic(name), name)
	}
	for _, sub := range subs {
		sub.Nothing()
	}
}

// malformed are packets that no client may send, with the code for MQTT 5.
func (e *env) malformed() map[string]struct {
	data []byte
	code byte
} {
	type bad = struct {
		data []byte
		code byte
	}
	return map[string]bad{
		"packet type 0":                     {raw(0x00), 0x81},
		"CONNACK":                           {raw(0x20, []byte{0, 0}), 0x82},
		"SUBACK":                            {raw(0x90, u16(1), e.props(), []byte{0}), 0x82},
		"UNSUBACK":                          {raw(0xB0, u16(1), e.props()), 0x82},
		"PINGRESP":                          {raw(0xD0), 0x82},
		"remaining length of 5 bytes":       {[]byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 0x81},
		"PINGREQ with a body":               {raw(0xC0, []byte{0}), 0x81},
		"PUBACK without identifier":         {raw(0x40), 0x81},
		"PUBACK with half of it":            {raw(0x40, []byte{0}), 0x81},
		"PUBREC without identifier":         {raw(0x50), 0x81},
		"PUBREL without identifier":         {raw(0x62), 0x81},
		"PUBCOMP without identifier":        {raw(0x70), 0x81},
		"PUBLISH without identifier":        {raw(0x32, str("t")), 0x81},
		"SUBSCRIBE without anything":        {raw(0x82), 0x81},
		"UNSUBSCRIBE without anything":      {raw(0xA2), 0x81},
		"SUBSCRIBE with half a length":      {raw(0x82, u16(1), e.props(), []byte{0}), 0x81},
		"UNSUBSCRIBE with half a length":    {raw(0xA2, u16(1), e.props(), []byte{0}), 0x81},
		"PUBLISH with both QoS bits":        {e.rawPublish(0x36, "t", u16(1), e.props(), ""), 0x81},
		"SUBSCRIBE without its last option": {raw(0x82, u16(1), e.props(), str("a"), []byte{0}, str("b")), 0x81},
	}
}

func malformedPackets(e *env) {
	for what, bad := range e.malformed() {
		e.breaks(what, bad.data, bad.code)
	}
	if e.v5() {
		badProperties(e)
	}
}

// badProperties: unknown ones, ones that do not belong there, ones that come twice, and ones that end too early.
func badProperties(e *env) {
	expiry, seconds := prop(packets.PropMessageExpiryInterval, u32(1)), prop(packets.PropSessionExpiryInterval, u32(1))
	identifier, delay := prop(packets.PropSubscriptionIdentifier, []byte{1}), prop(packets.PropWillDelayInterval, u32(1))
	publish := func(list ...[]byte) []byte { return e.rawPublish(0x30, "t", nil, e.props(list...), "x") }
	for what, bad := range map[string]struct {
		data []byte
		code byte
	}{
		"unknown":                     {publish([]byte{0x7E, 0}), 0x81},
		"reserved":                    {publish([]byte{0x00}), 0x81},
		"of CONNECT":                  {publish(seconds), 0x81},
		"twice":                       {publish(expiry, expiry), 0x82},
		"cut short":                   {publish(expiry[:3]), 0x81},
		"longer than the packet":      {raw(0x30, str("t"), []byte{50}), 0x81},
		"payload format of 2":         {publish([]byte{packets.PropPayloadFormat, 2}), 0x82},
		"PUBACK with a PUBLISH's":     {raw(0x40, u16(1), []byte{0}, e.props(expiry)), 0x81},
		"PUBACK with unknown code":    {raw(0x40, u16(1), []byte{0x7F}), 0x82},
		"SUBSCRIBE with a PUBLISH's":  {raw(0x82, u16(1), e.props(expiry), str("a"), []byte{0}), 0x81},
		"UNSUBSCRIBE with an id":      {raw(0xA2, u16(1), e.props(identifier), str("a")), 0x81},
		"a will's in DISCONNECT":      {raw(0xE0, []byte{0}, e.props(delay)), 0x81},
		"string longer than the list": {publish(prop(packets.PropContentType, []byte{0, 9, 'x'})), 0x81},
	} {
		e.breaks(what, bad.data, bad.code)
	}
}

func twice(property []byte) []byte { return join(property, property) }

func badConnectProperties(e *env) {
	for what, property := range map[string][]byte{
		"receive maximum of 0":          prop(packets.PropReceiveMaximum, u16(0)),
		"maximum packet size of 0":      prop(packets.PropMaximumPacketSize, u32(0)),
		"request problem info of 2":     {packets.PropRequestProblemInfo, 2},
		"request response info of 2":    {packets.PropRequestResponseInfo, 2},
		"two session expiry intervals":  twice(prop(packets.PropSessionExpiryInterval, u32(1))),
		"two topic alias maxima":        twice(prop(packets.PropTopicAliasMaximum, u16(1))),
		"two receive maxima":            twice(prop(packets.PropReceiveMaximum, u16(1))),
		"two maximum packet sizes":      twice(prop(packets.PropMaximumPacketSize, u32(99))),
		"authentication data by itself": prop(packets.PropAuthenticationData, str("x")),
	} {
		e.refuses(what, e.rawConnect5(property), 0x82)
	}
	e.refuses("a property of PUBLISH", e.rawConnect5(prop(packets.PropTopicAlias, u16(1))), 0x81, 0x82)
	e.refuses("an unknown property", e.rawConnect5([]byte{0x7E, 0}), 0x81)
	will := func(list ...[]byte) []byte {
		return e.rawConnect(cleanFlag|willFlag, str(e.id("c")), e.props(list...), str("w"), str(""))
	}
	e.refuses("a property of CONNECT in the will", will(prop(packets.PropReceiveMaximum, u16(1))), 0x81, 0x82)
	e.refuses("two delays", will(twice(prop(packets.PropWillDelayInterval, u32(1)))), 0x82)
}

// errorsClose: a CONNACK or DISCONNECT with an error is the end of the connection.
func errorsClose(e *env) {
	e.provoked()
	refusalCloses(e)
}

// transientError: what cannot be done now ends the connection, for want of a code that could say so.
func transientError(e *env) {
	refusedPublish(e)
}
