// Package broker is the MQTT broker itself: connections, sessions, subscriptions, publish, delivery, retained messages,
// wills and timers. It knows mochi's codec and hook contract and nothing else of this project.
package broker

import (
	"errors"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// ErrNotConnected: there is no live connection with this client identifier, or it ended.
var ErrNotConnected = errors.New("client is not connected")

// ErrNotSubscribed: the client is connected but has no subscription that matches the topic.
var ErrNotSubscribed = errors.New("client has no subscription for this topic")

// Broker is one node's broker.
type Broker struct{}

// AddHook adds a mochi hook. Hooks run in the order in which they were added. Before Start only.
func (b *Broker) AddHook(h mqtt.Hook, config any) error { panic("stub") }

// Publish routes a message as if a client had published it, without ACL checks. done (may be nil) is called exactly
// once when everyone that must has accepted it. It does not block. m must not be changed afterwards.
func (b *Broker) Publish(m *Message, done func(error)) { panic("stub") }

// Send delivers m to one connected client, in order after what already waits for it, outside of its durable queue: when
// the connection ends before the acknowledgement, it is Lost and the caller decides. m.QoS must be 1 or 2.
// It returns ErrNotConnected or ErrNotSubscribed (no filter of the client matches m.Topic); h is then never called.
func (b *Broker) Send(clientID string, m *Message, h SendHandler) error { panic("stub") }

// Disconnect closes the client's connection with an MQTT 5 reason code; it reports whether there was one.
// The session stays.
func (b *Broker) Disconnect(clientID string, code packets.Code) bool { panic("stub") }

// Connected reports whether the client has a live connection here.
func (b *Broker) Connected(clientID string) bool { panic("stub") }

// Client describes one session.
func (b *Broker) Client(clientID string) (ClientInfo, bool) { panic("stub") }

// Clients describes up to limit sessions with client identifiers after cursor, in ascending order.
func (b *Broker) Clients(cursor string, limit int) []ClientInfo { panic("stub") }

// Stats returns a snapshot of the counters.
func (b *Broker) Stats() Stats { panic("stub") }
