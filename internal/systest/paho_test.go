package systest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/extensions/topicaliases"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/internal/testenv"
)

func timely(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// dialPaho connects a paho MQTT 5 client, whose messages go to the channel.
func dialPaho(t testing.TB, n *node, connect *paho.Connect, change func(*paho.ClientConfig)) (
	*paho.Client, <-chan *paho.Publish, *paho.Connack) {
	t.Helper()
	conn, err := net.Dial("tcp", n.MQTT)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	got := make(chan *paho.Publish, 1000)
	cfg := paho.ClientConfig{
		Conn: conn, ClientID: connect.ClientID,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			got <- r.Packet
			return true, nil
		}},
	}
	if change != nil {
		change(&cfg)
	}
	c := paho.NewClient(cfg)
	connect.KeepAlive = 30
	ack, err := c.Connect(timely(t), connect)
	require.NoError(t, err)
	return c, got, ack
}

// next returns the next thing that comes, or fails.
func next[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return v
}

func TestPahoMQTT5(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	t.Run("properties", func(t *testing.T) { pahoProperties(t, n) })
	t.Run("request and response", func(t *testing.T) { pahoRequest(t, n) })
	t.Run("subscription identifiers", func(t *testing.T) { pahoSubscriptionIDs(t, n) })
	t.Run("topic aliases", func(t *testing.T) { pahoAliases(t, n) })
	t.Run("session expiry and resume", func(t *testing.T) { pahoResume(t, n) })
	t.Run("session without expiry", func(t *testing.T) { pahoNoResume(t, n) })
	t.Run("autopaho reconnects", func(t *testing.T) { autopahoReconnects(t, n) })
}

func pahoProperties(t *testing.T, n *node) {
	sub, got, _ := dialPaho(t, n, &paho.Connect{ClientID: "props-sub", CleanStart: true}, nil)
	_, err := sub.Subscribe(timely(t), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "props", QoS: 2}}})
	require.NoError(t, err)
	pub, _, _ := dialPaho(t, n, &paho.Connect{ClientID: "props-pub", CleanStart: true}, nil)
	format, expiry := byte(1), uint32(600)
	properties := &paho.PublishProperties{
		ContentType: "text/plain", PayloadFormat: &format, MessageExpiry: &expiry, ResponseTopic: "back",
		CorrelationData: []byte{0, 1, 255},
		User:            paho.UserProperties{{Key: "site", Value: "north"}, {Key: "site", Value: "süd"}},
	}
	for qos := range byte(3) {
		_, err := pub.Publish(timely(t), &paho.Publish{
			Topic: "props", QoS: qos, Payload: []byte("x"), Properties: properties,
		})
		require.NoError(t, err)
		m := next(t, got)
		require.Equal(t, qos, m.QoS)
		require.Equal(t, properties.User, m.Properties.User)
		require.Equal(t, properties.ContentType, m.Properties.ContentType)
		require.Equal(t, properties.CorrelationData, m.Properties.CorrelationData)
		require.Equal(t, properties.ResponseTopic, m.Properties.ResponseTopic)
		require.Equal(t, format, *m.Properties.PayloadFormat)
		require.LessOrEqual(t, *m.Properties.MessageExpiry, expiry)
		require.Greater(t, *m.Properties.MessageExpiry, expiry-60)
	}
}

func pahoRequest(t *testing.T, n *node) {
	responder, requests, _ := dialPaho(t, n, &paho.Connect{ClientID: "responder", CleanStart: true}, nil)
	_, err := responder.Subscribe(timely(t),
		&paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "ask", QoS: 1}}})
	require.NoError(t, err)
	requester, responses, ack := dialPaho(t, n, &paho.Connect{
		ClientID: "requester", CleanStart: true, Properties: &paho.ConnectProperties{RequestResponseInfo: true},
	}, nil)
	require.Equal(t, "devices/requester/responses/", ack.Properties.ResponseInfo)
	back := ack.Properties.ResponseInfo + "1"
	_, err = requester.Subscribe(timely(t),
		&paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: back, QoS: 1}}})
	require.NoError(t, err)
	_, err = requester.Publish(timely(t), &paho.Publish{
		Topic: "ask", QoS: 1, Payload: []byte("how much?"),
		Properties: &paho.PublishProperties{ResponseTopic: back, CorrelationData: []byte("no 1")},
	})
	require.NoError(t, err)
	request := next(t, requests)
	_, err = responder.Publish(timely(t), &paho.Publish{
		Topic: request.Properties.ResponseTopic, QoS: 1, Payload: append(request.Payload, " 42"...),
		Properties: &paho.PublishProperties{CorrelationData: request.Properties.CorrelationData},
	})
	require.NoError(t, err)
	response := next(t, responses)
	require.Equal(t, "how much? 42", string(response.Payload))
	require.Equal(t, "no 1", string(response.Properties.CorrelationData))
}

func pahoSubscriptionIDs(t *testing.T, n *node) {
	c, got, _ := dialPaho(t, n, &paho.Connect{ClientID: "ids", CleanStart: true}, nil)
	for id, filter := range map[int]string{7: "ids/one", 268_435_455: "ids/two"} {
		_, err := c.Subscribe(timely(t), &paho.Subscribe{
			Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 1}},
			Properties:    &paho.SubscribeProperties{SubscriptionIdentifier: &id},
		})
		require.NoError(t, err)
	}
	for _, topic := range []string{"ids/one", "ids/two"} {
		_, err := c.Publish(timely(t), &paho.Publish{Topic: topic, QoS: 1})
		require.NoError(t, err)
	}
	require.Equal(t, 7, *next(t, got).Properties.SubscriptionIdentifier)
	require.Equal(t, 268_435_455, *next(t, got).Properties.SubscriptionIdentifier)
}

// pahoAliases lets paho's own alias handler replace topics by aliases, and sees that subscribers get the topics.
func pahoAliases(t *testing.T, n *node) {
	sub, got, _ := dialPaho(t, n, &paho.Connect{ClientID: "alias-sub", CleanStart: true}, nil)
	_, err := sub.Subscribe(timely(t), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "alias/#", QoS: 1}}})
	require.NoError(t, err)
	var handler *topicaliases.TAHandler
	hidden := 0
	pub, _, ack := dialPaho(t, n, &paho.Connect{ClientID: "alias-pub", CleanStart: true}, func(c *paho.ClientConfig) {
		c.PublishHook = func(p *paho.Publish) {
			handler.PublishHook(p)
			if p.Topic == "" {
				hidden++
			}
		}
	})
	require.NotNil(t, ack.Properties.TopicAliasMaximum)
	handler = topicaliases.NewTAHandler(*ack.Properties.TopicAliasMaximum)
	for i := range 6 {
		topic := fmt.Sprint("alias/", i%2)
		_, err := pub.Publish(timely(t), &paho.Publish{Topic: topic, QoS: 1, Payload: fmt.Append(nil, i)})
		require.NoError(t, err)
		m := next(t, got)
		require.Equal(t, topic, m.Topic)
		require.Equal(t, fmt.Sprint(i), string(m.Payload))
	}
	require.Equal(t, 4, hidden, "publishes without a topic name")
}

func pahoResume(t *testing.T, n *node) {
	expiry := uint32(3600)
	connect := func(clean bool) (*paho.Client, <-chan *paho.Publish, *paho.Connack) {
		return dialPaho(t, n, &paho.Connect{
			ClientID: "resumes", CleanStart: clean, Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry},
		}, nil)
	}
	c, _, ack := connect(true)
	require.False(t, ack.SessionPresent)
	_, err := c.Subscribe(timely(t), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "resume/#", QoS: 2}}})
	require.NoError(t, err)
	c.TerminateConnectionForTest()
	n.awaitOffline("resumes")
	pub, _, _ := dialPaho(t, n, &paho.Connect{ClientID: "resume-pub", CleanStart: true}, nil)
	for i := range 20 {
		_, err := pub.Publish(timely(t), &paho.Publish{Topic: "resume/x", QoS: byte(1 + i%2), Payload: fmt.Append(nil, i)})
		require.NoError(t, err)
	}
	_, got, ack := connect(false)
	require.True(t, ack.SessionPresent)
	for i := range 20 {
		require.Equal(t, fmt.Sprint(i), string(next(t, got).Payload))
	}
}

func pahoNoResume(t *testing.T, n *node) {
	c, _, _ := dialPaho(t, n, &paho.Connect{ClientID: "forgets", CleanStart: false}, nil)
	_, err := c.Subscribe(timely(t), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "forget", QoS: 1}}})
	require.NoError(t, err)
	c.TerminateConnectionForTest()
	testenv.Eventually(t, patience, "the session has ended", func() bool {
		_, found := n.client("forgets")
		return !found
	})
	_, _, ack := dialPaho(t, n, &paho.Connect{ClientID: "forgets", CleanStart: false}, nil)
	require.False(t, ack.SessionPresent)
}

// autopahoReconnects breaks the connection between publishes; every message arrives, in order.
func autopahoReconnects(t *testing.T, n *node) {
	sub, got, _ := dialPaho(t, n, &paho.Connect{ClientID: "auto-sub", CleanStart: true}, nil)
	_, err := sub.Subscribe(timely(t), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "auto", QoS: 1}}})
	require.NoError(t, err)
	server, err := url.Parse("mqtt://" + n.MQTT)
	require.NoError(t, err)
	ups := make(chan bool, 10)
	ctx := timely(t)
	cm, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{server}, KeepAlive: 30, SessionExpiryInterval: 60,
		ReconnectBackoff: func(int) time.Duration { return 10 * time.Millisecond },
		OnConnectionUp:   func(_ *autopaho.ConnectionManager, ack *paho.Connack) { ups <- ack.SessionPresent },
		ClientConfig:     paho.ClientConfig{ClientID: "auto"},
	})
	require.NoError(t, err)
	require.False(t, next(t, ups))
	for i := range 6 {
		if i == 3 {
			cm.TerminateConnectionForTest()
			require.True(t, next(t, ups), "the session goes on")
		}
		require.NoError(t, cm.AwaitConnection(ctx))
		_, err := cm.Publish(ctx, &paho.Publish{Topic: "auto", QoS: 1, Payload: fmt.Append(nil, i)})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), string(next(t, got).Payload))
	}
	require.NoError(t, cm.Disconnect(ctx))
}

// dialMQTT3 connects a paho MQTT 3.1.1 client whose messages go to the channel.
func dialMQTT3(t testing.TB, n *node, id string, clean bool, change func(*mqtt3.ClientOptions)) (
	mqtt3.Client, <-chan mqtt3.Message) {
	t.Helper()
	got := make(chan mqtt3.Message, 1000)
	o := mqtt3.NewClientOptions().AddBroker("tcp://" + n.MQTT).SetClientID(id).SetCleanSession(clean).
		SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(patience).
		SetDefaultPublishHandler(func(_ mqtt3.Client, m mqtt3.Message) { got <- m })
	if change != nil {
		change(o)
	}
	c := mqtt3.NewClient(o)
	done(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c, got
}

func done(t testing.TB, token mqtt3.Token) {
	t.Helper()
	require.True(t, token.WaitTimeout(patience), "no answer")
	require.NoError(t, token.Error())
}

// cutConn is a connection that a test breaks.
type cutConn struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutConn) option(o *mqtt3.ClientOptions) {
	o.SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt3.ClientOptions) (net.Conn, error) {
		nc, err := net.Dial("tcp", u.Host)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = append(c.conns, nc)
		return nc, err
	})
}

func (c *cutConn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, nc := range c.conns {
		_ = nc.Close()
	}
}

func TestPahoMQTT311(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	for qos := range byte(3) {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			c, got := dialMQTT3(t, n, fmt.Sprint("v3-", qos), true, nil)
			topic := fmt.Sprint("v3/", qos)
			done(t, c.Subscribe(topic, qos, nil))
			for i := range 50 {
				done(t, c.Publish(topic, qos, false, fmt.Sprint(i)))
			}
			for i := range 50 {
				m := next(t, got)
				require.Equal(t, fmt.Sprint(i), string(m.Payload()))
				require.Equal(t, qos, m.Qos())
			}
		})
	}
	t.Run("persistent session", func(t *testing.T) {
		c, _ := dialMQTT3(t, n, "v3-keeps", false, nil)
		done(t, c.Subscribe("v3/kept", 2, nil))
		c.Disconnect(0)
		n.awaitOffline("v3-keeps")
		pub, _ := dialMQTT3(t, n, "v3-pub", true, nil)
		for i := range 50 {
			done(t, pub.Publish("v3/kept", 2, false, fmt.Sprint(i)))
		}
		_, got := dialMQTT3(t, n, "v3-keeps", false, nil)
		for i := range 50 {
			require.Equal(t, fmt.Sprint(i), string(next(t, got).Payload()))
		}
	})
	t.Run("will", func(t *testing.T) {
		watcher, got := dialMQTT3(t, n, "v3-watcher", true, nil)
		done(t, watcher.Subscribe("v3/will", 2, nil))
		var cut cutConn
		dialMQTT3(t, n, "v3-dies", true, func(o *mqtt3.ClientOptions) {
			cut.option(o)
			o.SetWill("v3/will", "dead", 2, false)
		})
		c, _ := dialMQTT3(t, n, "v3-leaves", true, func(o *mqtt3.ClientOptions) {
			o.SetWill("v3/will", "must not come", 2, false)
		})
		c.Disconnect(100)
		n.awaitOffline("v3-leaves")
		cut.cut()
		require.Equal(t, "dead", string(next(t, got).Payload()))
	})
	t.Run("takeover", func(t *testing.T) {
		lost := make(chan error, 1)
		dialMQTT3(t, n, "v3-twin", true, func(o *mqtt3.ClientOptions) {
			o.SetConnectionLostHandler(func(_ mqtt3.Client, err error) { lost <- err })
		})
		dialMQTT3(t, n, "v3-twin", true, nil)
		require.Error(t, next(t, lost))
	})
}
