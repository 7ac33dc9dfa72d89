package uplink

import "strings"

// matches reports whether an MQTT topic filter matches a topic (MQTT 5, 4.7). It allocates nothing.
func matches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (filter[0] == '+' || filter[0] == '#') {
		return false // [MQTT-4.7.2-1]
	}
	for {
		want, restFilter, moreFilter := strings.Cut(filter, "/")
		if want == "#" {
			return true
		}
		have, restTopic, moreTopic := strings.Cut(topic, "/")
		if want != "+" && want != have {
			return false
		}
		if !moreTopic {
			return !moreFilter || restFilter == "#" // "a/#" also matches "a"
		}
		if !moreFilter {
			return false
		}
		filter, topic = restFilter, restTopic
	}
}

// filterProblem says what is wrong with a topic filter; empty: nothing.
func filterProblem(filter string) string {
	switch {
	case filter == "":
		return "is missing: write an MQTT topic filter, for example devices/+/up/#"
	case len(filter) > 65535:
		return "is longer than 65,535 bytes"
	case strings.HasPrefix(filter, "$share/"):
		return "must not be a shared subscription"
	case strings.ContainsRune(filter, 0):
		return "contains a null character"
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if level == "#" && i < len(levels)-1 {
			return "has # before its last level"
		}
		if len(level) > 1 && strings.ContainsAny(level, "+#") {
			return "has a wildcard that does not stand alone in its level"
		}
	}
	return ""
}
