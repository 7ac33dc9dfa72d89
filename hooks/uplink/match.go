package uplink

import "strings"

// matches reports whether an MQTT topic filter matches a topic (MQTT 5, 4.7). It allocates nothing.
func matches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (filter[0] == '+' || filter[0] == '#') {
		return false // [MQTT-4.7.2-1]
	}
	f, t := 0, 0
	for {
		switch {
		case f == len(filter)-1 && filter[f] == '#':
			return true
		case f < len(filter) && filter[f] == '+':
			for f++; t < len(topic) && topic[t] != '/'; t++ {
			}
		default:
			for ; f < len(filter) && filter[f] != '/'; f, t = f+1, t+1 {
				if t == len(topic) || topic[t] != filter[f] {
					return false
				}
			}
			if t < len(topic) && topic[t] != '/' {
				return false
			}
		}
		// Both are at the end of a level.
		if t == len(topic) {
			return f == len(filter) || filter[f:] == "/#" // "a/#" also matches "a"
		}
		if f == len(filter) {
			return false
		}
		f, t = f+1, t+1
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
