package command

import (
	"encoding/json"
	"errors"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/penstockmq/penstock/broker"
)

// issueTopic is where commands are published; their events go to issueTopic/{id}/events.
const issueTopic = "admin/commands"

// refusedID stands in the events topic for commands that were refused and had no id that could stand there.
const refusedID = "refused"

// ID names the hook.
func (s *Service) ID() string { return "command" }

// Provides says which of mochi's hooks are used.
func (s *Service) Provides(b byte) bool {
	return b == mqtt.OnSessionEstablished || b == mqtt.OnSubscribed
}

// OnSessionEstablished lets what waits for the device go out. It does not block.
func (s *Service) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	s.shard(cl.ID).wakeUp(cl.ID)
}

// OnSubscribed lets what waits for the device go out. It does not block.
func (s *Service) OnSubscribed(cl *mqtt.Client, _ packets.Packet, _ []byte) {
	s.shard(cl.ID).wakeUp(cl.ID)
}

// Wants reports whether a topic is for commands or their results.
func (s *Service) Wants(topic string) bool {
	if topic == issueTopic {
		return true
	}
	_, _, ok := resultTopic(topic)
	return ok
}

// resultTopic splits devices/{id}/results/{execution}.
func resultTopic(topic string) (device, execution string, ok bool) {
	rest, ok := strings.CutPrefix(topic, devicePrefix)
	if !ok {
		return "", "", false
	}
	slash := strings.IndexByte(rest, '/')
	if slash <= 0 || !strings.HasPrefix(rest[slash:], resultsPart) {
		return "", "", false
	}
	device, execution = rest[:slash], rest[slash+len(resultsPart):]
	return device, execution, execution != "" && strings.IndexByte(execution, '/') < 0
}

// Accept takes commands and results (broker.Acceptor).
func (s *Service) Accept(m *broker.Message, done func(error)) {
	if m.Topic != issueTopic {
		s.acceptResult(m, done)
		return
	}
	if !s.topicIssues.put(topicIssue{m, done}) {
		done(broker.Refuse(packets.ErrQuotaExceeded, "too many commands wait to be looked at"))
	}
}

// topicIssue is a command from the admin topic, and how its publisher is acknowledged.
type topicIssue struct {
	message *broker.Message
	done    func(error)
}

// takeTopicIssues is the goroutine that reads commands from the admin topic, in order.
func (s *Service) takeTopicIssues() {
	s.topicIssues.each(s.stop, func(t topicIssue) {
		m := t.message
		issuer := m.Username
		if issuer == "" {
			issuer = m.Origin
		}
		in := Input{Body: m.Payload, Issuer: issuer, Traceparent: m.Traceparent}
		s.issue(in, func(st Status, err error) { s.answerTopic(t, st, err) })
	})
}

// answerTopic acknowledges the publisher and sends the answer to the response topic; what was refused is told on the
// events topic as well, where an MQTT 3 client can see it.
func (s *Service) answerTopic(t topicIssue, st Status, err error) {
	m := t.message
	if err == nil {
		s.respond(m, st)
		t.done(nil)
		return
	}
	var p *Problem
	if !errors.As(err, &p) {
		p = problem(503, "%v", err)
	}
	s.log.Info("command refused", "client_id", m.Origin, "reason", p.Error())
	s.respond(m, p)
	refused := struct {
		Type string `json:"type"`
		*Problem
	}{"refused", p}
	s.publish(eventTopic(requestedID(m.Payload)), refused, nil)
	t.done(broker.Refuse(reasonCode(p.Status), "%s", p.Error()))
}

func reasonCode(status int) packets.Code {
	switch status {
	case 400, 422:
		return packets.ErrPayloadFormatInvalid
	case 413, 429:
		return packets.ErrQuotaExceeded
	default:
		return packets.ErrImplementationSpecificError
	}
}

// requestedID is the id in a command that was refused, if there is a usable one.
func requestedID(body []byte) string {
	var r struct{ ID string }
	var f faults
	if json.Unmarshal(body, &r) != nil || r.ID == "" {
		return refusedID
	}
	if checkID(r.ID, &f); len(f) > 0 {
		return refusedID
	}
	return r.ID
}

func eventTopic(id string) string { return issueTopic + "/" + id + "/events" }

// respond answers a request on its MQTT 5 response topic, if it has one (MQTT 5, 4.10).
func (s *Service) respond(m *broker.Message, body any) {
	p := m.Properties
	if p == nil || p.ResponseTopic == "" || strings.ContainsAny(p.ResponseTopic, "+#") ||
		broker.IsSys(p.ResponseTopic) {
		return
	}
	s.publish(p.ResponseTopic, body, p.CorrelationData)
}

func (s *Service) publish(topic string, body any, correlation []byte) {
	text, err := json.Marshal(body)
	if err != nil {
		s.log.Error("event not encoded", "error", err, "topic", topic)
		return
	}
	m := &broker.Message{Topic: topic, Payload: text, QoS: 1, Received: nowMillis()}
	m.Properties = &broker.Properties{ContentType: "application/json", CorrelationData: correlation}
	s.broker.Publish(m, func(err error) {
		if err != nil {
			s.log.Warn("event not delivered to every subscriber", "error", err, "topic", topic)
		}
	})
}
