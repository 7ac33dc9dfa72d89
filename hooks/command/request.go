package command

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Request is a command as it is asked for: the JSON of POST /v1/commands and of the topic admin/commands.
type Request struct {
	ID            string          `json:"id,omitempty" doc:"Idempotency key, which also becomes the command's id: letters, digits, '.', '_' and '-', at most 64"`
	Targets       Targets         `json:"targets" doc:"Who gets it: exactly one of its fields"`
	Payload       json.RawMessage `json:"payload,omitempty" doc:"What the devices get: a string is sent as it is, any other JSON as compact text"`
	PayloadBase64 *string         `json:"payload_base64,omitempty" doc:"What the devices get, as base64; instead of payload"`
	TTL           float64         `json:"ttl_s,omitempty" doc:"Seconds until a device that has not acknowledged it does not get it any more"`
	AckTimeout    float64         `json:"ack_timeout_s,omitempty" doc:"Seconds without acknowledgement until it is sent again"`
	ResultTimeout float64         `json:"result_timeout_s,omitempty" doc:"Seconds from acknowledgement to result until TIMED_OUT; 0: no result is awaited"`
	Priority      int             `json:"priority,omitempty" minimum:"0" maximum:"9" doc:"0 to 9; higher ones go first among what waits in a lane"`
	Lane          string          `json:"lane,omitempty" doc:"Commands of one lane reach a device in order; lanes do not wait for each other"`
	CollapseKey   string          `json:"collapse_key,omitempty" doc:"A newer command with the same key supersedes those that were not sent yet"`
	Rollout       json.RawMessage `json:"rollout,omitempty" doc:"Not supported yet"`
}

// Targets says who gets a command.
type Targets struct {
	Devices []string `json:"devices,omitempty" doc:"Client identifiers"`
	Online  bool     `json:"online,omitempty" doc:"Every client that is connected when the command is issued"`
	Tag     string   `json:"tag,omitempty" doc:"Not supported yet"`
}

const (
	maxName     = 64  // bytes of an id, a lane or a collapse key
	maxDeviceID = 256 // bytes of a device id
	maxKey      = 256 // bytes of an idempotency key
)

// parsed is a request that was checked, with its payload taken out of JSON.
type parsed struct {
	Request
	payload []byte
}

// parseRequest reads and checks a request. The problem that comes back lists all faults by field.
func parseRequest(body []byte, cfg *Config) (*parsed, *Problem) {
	p := &parsed{}
	var f faults
	if !utf8.Valid(body) {
		f.add("", "is not JSON: it is not UTF-8")
		return nil, f.problem()
	}
	readObject(body, "", &f, map[string]any{
		"id": &p.ID, "targets": &p.Targets, "payload": &p.Payload, "payload_base64": &p.PayloadBase64, "ttl_s": &p.TTL,
		"ack_timeout_s": &p.AckTimeout, "result_timeout_s": &p.ResultTimeout, "priority": &p.Priority, "lane": &p.Lane,
		"collapse_key": &p.CollapseKey, "rollout": &p.Rollout,
	})
	if len(f) == 0 {
		p.check(cfg, &f)
	}
	if len(f) > 0 {
		return nil, f.problem()
	}
	if len(p.payload) > int(cfg.Payload) {
		return nil, problem(413, "the payload has %d bytes, and at most %v are taken", len(p.payload), cfg.Payload)
	}
	return p, nil
}

// readObject decodes a JSON object strictly: unknown and repeated fields and values of a wrong type are faults.
func readObject(body []byte, at string, f *faults, fields map[string]any) {
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		if at == "" {
			f.add(at, "is not JSON with an object")
		} else {
			f.add(at, "must be an object")
		}
		return
	}
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		var raw json.RawMessage
		if err == nil {
			err = d.Decode(&raw)
		}
		if err != nil {
			f.add(at, "is not JSON: %v", err)
			return
		}
		name, _ := key.(string)
		into, known := fields[name]
		switch {
		case !known:
			f.add(at+"."+clip(name), "is not a known field")
		case seen[name]:
			f.add(at+"."+name, "is there twice")
		default:
			readField(raw, at+"."+name, into, f)
		}
		seen[name] = true
	}
	if _, err := d.Token(); err != nil {
		f.add(at, "is not JSON: %v", err)
		return
	}
	if _, err := d.Token(); err != io.EOF {
		f.add(at, "is not JSON: something follows the object")
	}
}

func readField(raw json.RawMessage, at string, into any, f *faults) {
	switch into := into.(type) {
	case *json.RawMessage:
		*into = raw
		return
	case *Targets:
		readObject(raw, at, f, map[string]any{"devices": &into.Devices, "online": &into.Online, "tag": &into.Tag})
		return
	}
	if bytes.Equal(raw, []byte("null")) {
		f.add(at, "must not be null")
		return
	}
	if err := json.Unmarshal(raw, into); err != nil {
		f.add(at, "has the wrong type: it must be %s", typeName(into))
	}
}

func typeName(into any) string {
	switch into.(type) {
	case *float64:
		return "a number"
	case *int:
		return "a whole number"
	case *bool:
		return "true or false"
	case *[]string:
		return "a list of strings"
	default:
		return "a string"
	}
}

func (p *parsed) check(cfg *Config, f *faults) {
	if p.ID != "" {
		checkID(p.ID, f)
	}
	p.Targets.check(cfg, f)
	p.takePayload(f)
	checkSeconds(".ttl_s", p.TTL, cfg.MaxTTL, f)
	checkSeconds(".ack_timeout_s", p.AckTimeout, cfg.MaxTTL, f)
	checkSeconds(".result_timeout_s", p.ResultTimeout, cfg.MaxTTL, f)
	if p.Priority < 0 || p.Priority > 9 {
		f.add(".priority", "must be 0 to 9")
	}
	checkName(".lane", p.Lane, f)
	checkName(".collapse_key", p.CollapseKey, f)
	if p.Rollout != nil {
		f.add(".rollout", "is not supported yet")
	}
}

func (t *Targets) check(cfg *Config, f *faults) {
	chosen := 0
	for _, is := range []bool{t.Devices != nil, t.Online, t.Tag != ""} {
		if is {
			chosen++
		}
	}
	switch {
	case chosen == 0:
		f.add(".targets", "must have one of devices and online")
	case chosen > 1:
		f.add(".targets", "must have only one of devices, online and tag")
	case t.Tag != "":
		f.add(".targets.tag", "is not supported yet")
	case t.Devices != nil:
		t.checkDevices(cfg, f)
	}
}

// checkDevices also removes what is there twice; the order stays.
func (t *Targets) checkDevices(cfg *Config, f *faults) {
	if len(t.Devices) == 0 {
		f.add(".targets.devices", "must not be empty")
	}
	seen := make(map[string]struct{}, len(t.Devices))
	unique := t.Devices[:0]
	for i, id := range t.Devices {
		if fault := deviceFault(id); fault != "" {
			f.add(fmt.Sprintf(".targets.devices[%d]", i), "%q %s", clip(id), fault)
		}
		if _, twice := seen[id]; !twice {
			seen[id] = struct{}{}
			unique = append(unique, id)
		}
	}
	t.Devices = unique
	if len(unique) > cfg.Targets {
		f.add(".targets.devices", "has %d devices, and at most %d are taken", len(unique), cfg.Targets)
	}
}

// deviceFault says why a device cannot have that id: it must fit into one level of a topic.
func deviceFault(id string) string {
	switch {
	case id == "":
		return "is empty"
	case len(id) > maxDeviceID:
		return fmt.Sprintf("is longer than %d bytes", maxDeviceID)
	case strings.ContainsAny(id, "/+#"):
		return "is not a device id: it has one of / + #"
	case strings.IndexFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0:
		return "is not a device id: it has a control character"
	}
	return ""
}

func (p *parsed) takePayload(f *faults) {
	switch {
	case p.Payload == nil && p.PayloadBase64 == nil:
		f.add(".payload", "is missing: give payload or payload_base64")
	case p.Payload != nil && p.PayloadBase64 != nil:
		f.add(".payload_base64", "must not be there together with payload")
	case p.PayloadBase64 != nil:
		raw, err := base64.StdEncoding.DecodeString(*p.PayloadBase64)
		if err != nil {
			f.add(".payload_base64", "is not base64: %v", err)
		}
		p.payload = raw
	case p.Payload[0] == '"':
		var s string
		if err := json.Unmarshal(p.Payload, &s); err != nil {
			f.add(".payload", "is not a JSON string: %v", err)
		}
		p.payload = []byte(s)
	default:
		var b bytes.Buffer
		if err := json.Compact(&b, p.Payload); err != nil {
			f.add(".payload", "is not JSON: %v", err)
		}
		p.payload = b.Bytes()
	}
}

func checkSeconds(at string, s float64, longest time.Duration, f *faults) {
	if s < 0 || s > longest.Seconds() || math.IsNaN(s) {
		f.add(at, "must be 0 (the default) to %.0f seconds", longest.Seconds())
	}
}

func checkID(id string, f *faults) {
	ok := len(id) <= maxName && id != refusedID
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
	}
	if !ok {
		f.add(".id", "%q is not an id: use letters, digits, '.', '_' and '-', at most %d", clip(id), maxName)
	}
}

func checkName(at, name string, f *faults) {
	if len(name) > maxName {
		f.add(at, "is longer than %d bytes", maxName)
	}
}

// hash is equal for requests that ask for the same, however they are written.
func (p *parsed) hash() []byte {
	same := p.Request
	same.ID, same.Payload, same.PayloadBase64 = "", nil, nil
	text, err := json.Marshal(same)
	if err != nil { // strings, numbers and booleans always marshal
		text = []byte(err.Error())
	}
	h := sha256.New()
	h.Write(text)
	h.Write([]byte{0})
	h.Write(p.payload)
	return h.Sum(nil)
}

// seconds turns a field into milliseconds; 0 means the default.
func seconds(s float64, otherwise time.Duration) int64 {
	if s == 0 {
		return otherwise.Milliseconds()
	}
	return max(1, int64(s*1000))
}

// clip shortens what a client sent before it goes into a message.
func clip(s string) string {
	const longest = 80
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "…"
}
