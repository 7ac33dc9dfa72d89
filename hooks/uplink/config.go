package uplink

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Config says which messages go up, and where to.
type Config struct {
	Routes []Route `yaml:"routes" doc:"Where messages of matching topics go; a message goes to every route that matches."`
}

// Route sends the messages of one topic filter to one Kafka topic.
//
// Key and header values are templates: {client_id}, {username}, {topic}, {topic[N]} (level N, counted from 0), {qos},
// {received} (Unix milliseconds); {{ stands for one brace. Topic is no template on purpose: a device that could name
// the Kafka topic could name one that does not exist, and everyone's uplink would wait for it.
type Route struct {
	Filter  string            `yaml:"filter" doc:"MQTT topic filter, for example devices/+/up/#."`
	Topic   string            `yaml:"topic" default:"penstock.uplink" doc:"Kafka topic: 1 to 249 letters, digits, dots, underscores and hyphens."`
	Key     string            `yaml:"key" default:"{client_id}" doc:"Template of the partition key, which keeps the order of messages; empty means {client_id}."`
	Headers map[string]string `yaml:"headers" doc:"Further Kafka headers: name to template."`
}

const (
	defaultTopic = "penstock.uplink"
	defaultKey   = "{client_id}"
)

var kafkaTopic = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// Validate reports everything that is wrong with the routes.
func (c *Config) Validate(report func(key, problem string)) {
	for i := range c.Routes {
		compileRoute(c.Routes[i], func(key, problem string) {
			report(fmt.Sprintf("routes[%d].%s", i, key), problem)
		})
	}
}

// route is a Route made ready to use.
type route struct {
	filter  string
	topic   string
	key     template
	headers []routeHeader // by name, so that records look the same every time
}

type routeHeader struct {
	name  []byte
	value template
}

// compileRoute fills in defaults and parses the templates; it reports what is wrong.
func compileRoute(r Route, report func(key, problem string)) route {
	if r.Topic == "" {
		r.Topic = defaultTopic
	}
	if r.Key == "" {
		r.Key = defaultKey
	}
	if problem := filterProblem(r.Filter); problem != "" {
		report("filter", problem)
	}
	if !kafkaTopic.MatchString(r.Topic) || r.Topic == "." || r.Topic == ".." {
		report("topic", "is no Kafka topic name: 1 to 249 letters, digits, dots, underscores and hyphens")
	}
	compiled := route{filter: r.Filter, topic: r.Topic}
	var err error
	if compiled.key, err = parseTemplate(r.Key); err != nil {
		report("key", err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		value, err := parseTemplate(r.Headers[name])
		switch {
		case err != nil:
			report("headers."+name, err.Error())
		case name == "":
			report("headers", "has an empty name")
		}
		compiled.headers = append(compiled.headers, routeHeader{[]byte(name), value})
	}
	return compiled
}
