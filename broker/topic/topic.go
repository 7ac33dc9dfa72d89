// Package topic holds topic names and topic filters: it checks them, matches them, and finds the subscribers of a topic
// and the retained topics of a filter.
package topic

import (
	"errors"
	"fmt"
	"strings"
)

// sharePrefix begins the filter of a shared subscription (MQTT 5, 4.8.2).
const sharePrefix = "$share/"

// What can be wrong with a topic name or a topic filter.
var (
	ErrEmpty         = errors.New("it is empty")
	ErrNUL           = errors.New("it contains the character U+0000")
	ErrNameWildcard  = errors.New("a topic name must not contain + or #")
	ErrLevels        = errors.New("it has too many levels")
	ErrPlus          = errors.New("+ must stand alone in its level")
	ErrHash          = errors.New("# must stand alone in the last level")
	ErrShareGroup    = errors.New("$share needs a group name without +, # and /")
	ErrShareNoFilter = errors.New("$share needs a topic filter after the group name")
)

// CheckName checks a topic name as it stands in a PUBLISH; maxLevels 0 is no limit. The error is one of this package's,
// wrapped.
func CheckName(topic string, maxLevels int) error {
	if topic == "" {
		return fmt.Errorf("topic name: %w", ErrEmpty)
	}
	levels := 1
	for i := 0; i < len(topic); i++ {
		switch topic[i] {
		case '/':
			levels++
		case '+', '#':
			return fmt.Errorf("topic name: %w", ErrNameWildcard)
		case 0:
			return fmt.Errorf("topic name: %w", ErrNUL)
		}
	}
	if maxLevels > 0 && levels > maxLevels {
		return fmt.Errorf("topic name: %w: %d of at most %d", ErrLevels, levels, maxLevels)
	}
	return nil
}

// CheckFilter checks a topic filter as it stands in a SUBSCRIBE, with or without $share/{group}/ before it; maxLevels 0
// is no limit, and $share and the group are not counted. The error is one of this package's, wrapped.
func CheckFilter(filter string, maxLevels int) error {
	rest, err := checkShare(filter)
	if err != nil {
		return fmt.Errorf("topic filter: %w", err)
	}
	levels, err := checkLevels(rest)
	if err != nil {
		return fmt.Errorf("topic filter: %w", err)
	}
	if maxLevels > 0 && levels > maxLevels {
		return fmt.Errorf("topic filter: %w: %d of at most %d", ErrLevels, levels, maxLevels)
	}
	return nil
}

// checkShare returns the filter without its $share/{group}/.
func checkShare(filter string) (string, error) {
	if filter == "$share" {
		return "", ErrShareGroup
	}
	if !strings.HasPrefix(filter, sharePrefix) {
		return filter, nil
	}
	group, rest, found := strings.Cut(filter[len(sharePrefix):], "/")
	if group == "" || strings.ContainsAny(group, "+#\x00") {
		return "", ErrShareGroup
	}
	if !found || rest == "" {
		return "", ErrShareNoFilter
	}
	return rest, nil
}

// checkLevels checks where the wildcards stand, and counts the levels.
func checkLevels(filter string) (levels int, err error) {
	if filter == "" {
		return 0, ErrEmpty
	}
	levels = 1
	for i := 0; i < len(filter); i++ {
		starts := i == 0 || filter[i-1] == '/'
		switch filter[i] {
		case '/':
			levels++
		case '+':
			if !starts || i+1 < len(filter) && filter[i+1] != '/' {
				return 0, ErrPlus
			}
		case '#':
			if !starts || i+1 < len(filter) {
				return 0, ErrHash
			}
		case 0:
			return 0, ErrNUL
		}
	}
	return levels, nil
}

// SplitShare splits $share/{group}/{filter}; group is empty when the subscription is not shared. The filter must have
// passed CheckFilter.
func SplitShare(filter string) (group, rest string) {
	if !strings.HasPrefix(filter, sharePrefix) {
		return "", filter
	}
	group, rest, found := strings.Cut(filter[len(sharePrefix):], "/")
	if !found || group == "" || rest == "" {
		return "", filter
	}
	return group, rest
}

// HasWildcard reports whether a valid filter contains a wildcard.
func HasWildcard(filter string) bool {
	return strings.IndexByte(filter, '+') >= 0 || strings.IndexByte(filter, '#') >= 0
}

// Match reports whether a valid filter without $share matches a topic name (MQTT 5, 4.7): a wildcard in the first level
// does not match a topic that begins with $, and a/# matches a.
func Match(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && filter != "" && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		want, wantRest, wantMore := strings.Cut(filter, "/")
		if want == "#" {
			return true
		}
		have, haveRest, haveMore := strings.Cut(topic, "/")
		if want != "+" && want != have {
			return false
		}
		if !haveMore {
			return !wantMore || wantRest == "#"
		}
		if !wantMore {
			return false
		}
		filter, topic = wantRest, haveRest
	}
}
