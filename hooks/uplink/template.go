package uplink

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/penstockmq/penstock/broker"
)

// template is a parsed text with places for a message's own values: {client_id}, {username}, {topic}, {topic[N]} (level
// N of the MQTT topic, counted from 0; empty when there is none), {qos} and {received} (Unix milliseconds). {{ stands
// for one brace.
type template struct {
	parts []part
}

type part struct {
	kind  partKind
	text  string // partText
	level int    // partLevel
}

type partKind byte

const (
	partText partKind = iota
	partClientID
	partUsername
	partTopic
	partLevel
	partQoS
	partReceived
)

var placeholders = map[string]partKind{
	"client_id": partClientID,
	"username":  partUsername,
	"topic":     partTopic,
	"qos":       partQoS,
	"received":  partReceived,
}

// maxLevel bounds the N of {topic[N]}: no topic has more levels than it has bytes.
const maxLevel = 65535

// parseTemplate reads a template. An unknown name is an error.
func parseTemplate(s string) (template, error) {
	var t template
	for s != "" {
		open := strings.IndexByte(s, '{')
		if open < 0 {
			t.addText(s)
			return t, nil
		}
		t.addText(s[:open])
		s = s[open+1:]
		if strings.HasPrefix(s, "{") {
			t.addText("{")
			s = s[1:]
			continue
		}
		name, rest, closed := strings.Cut(s, "}")
		if !closed {
			return template{}, fmt.Errorf("{%s has no closing brace: write {{ for a brace", name)
		}
		p, err := parsePlaceholder(name)
		if err != nil {
			return template{}, err
		}
		t.parts = append(t.parts, p)
		s = rest
	}
	return t, nil
}

func parsePlaceholder(name string) (part, error) {
	if kind, ok := placeholders[name]; ok {
		return part{kind: kind}, nil
	}
	if index, ok := strings.CutPrefix(name, "topic["); ok {
		index, ok = strings.CutSuffix(index, "]")
		level, err := strconv.ParseUint(index, 10, 16)
		if !ok || err != nil || level > maxLevel {
			return part{}, fmt.Errorf("{%s}: a topic level is written {topic[N]}, with N from 0", name)
		}
		return part{kind: partLevel, level: int(level)}, nil
	}
	return part{}, fmt.Errorf(
		"{%s} is unknown: use {client_id}, {username}, {topic}, {topic[N]}, {qos} or {received}", name)
}

func (t *template) addText(s string) {
	if s == "" {
		return
	}
	if n := len(t.parts); n > 0 && t.parts[n-1].kind == partText {
		t.parts[n-1].text += s
		return
	}
	t.parts = append(t.parts, part{kind: partText, text: s})
}

// appendTo appends the template, filled in with the message's values.
func (t *template) appendTo(b []byte, m *broker.Message) []byte {
	for i := range t.parts {
		switch p := &t.parts[i]; p.kind {
		case partText:
			b = append(b, p.text...)
		case partClientID:
			b = append(b, m.Origin...)
		case partUsername:
			b = append(b, m.Username...)
		case partTopic:
			b = append(b, m.Topic...)
		case partLevel:
			b = append(b, topicLevel(m.Topic, p.level)...)
		case partQoS:
			b = append(b, '0'+m.QoS)
		case partReceived:
			b = strconv.AppendInt(b, m.Received, 10)
		}
	}
	return b
}

func topicLevel(topic string, n int) string {
	for ; n > 0; n-- {
		_, rest, more := strings.Cut(topic, "/")
		if !more {
			return ""
		}
		topic = rest
	}
	level, _, _ := strings.Cut(topic, "/")
	return level
}
