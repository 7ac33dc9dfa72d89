package acl

import (
	"errors"
	"strings"
)

// subject is who asks.
type subject struct {
	client string // client identifier
	user   string // verified user name; may be empty
	remote string // host:port
}

// pattern is a topic filter of a rule, cut into its levels, in which %c and %u stand for the subject's names.
type pattern struct {
	levels                 []level
	needsClient, needsUser bool
}

type levelKind byte

const (
	literal  levelKind = iota // text
	template                  // parts
	plus
	hash
)

type level struct {
	kind  levelKind
	text  string
	parts []part
}

// part is a stretch of a level: fixed text, or a variable ('c' or 'u').
type part struct {
	text     string
	variable byte
}

func (p part) value(s *subject) string {
	switch p.variable {
	case 'c':
		return s.client
	case 'u':
		return s.user
	default:
		return p.text
	}
}

// parsePattern reads a topic filter with %c, %u, and %% for a percent sign.
func parsePattern(text string) (pattern, error) {
	var p pattern
	switch {
	case text == "":
		return p, errors.New("is empty")
	case strings.HasPrefix(text, "$share/"):
		return p, errors.New("must not begin with $share: a rule for the filter itself covers its shared form")
	case len(text) > 65535 || strings.ContainsRune(text, 0):
		return p, errors.New("is not a topic filter")
	}
	levels := strings.Split(text, "/")
	for i, word := range levels {
		l, err := parseLevel(word)
		switch {
		case err != nil:
			return p, err
		case l.kind == hash && i != len(levels)-1:
			return p, errors.New("has # before its last level")
		}
		for _, part := range l.parts {
			p.needsClient = p.needsClient || part.variable == 'c'
			p.needsUser = p.needsUser || part.variable == 'u'
		}
		p.levels = append(p.levels, l)
	}
	// +/# and # match the same topics; covers compares level by level and needs one form.
	if len(p.levels) == 2 && p.levels[0].kind == plus && p.levels[1].kind == hash {
		p.levels = p.levels[1:]
	}
	return p, nil
}

func parseLevel(word string) (level, error) {
	switch {
	case word == "+":
		return level{kind: plus}, nil
	case word == "#":
		return level{kind: hash}, nil
	case strings.ContainsAny(word, "+#"):
		return level{}, errors.New("has a wildcard that is not a whole level")
	case !strings.Contains(word, "%"):
		return level{kind: literal, text: word}, nil
	}
	l := level{kind: template}
	for word != "" {
		before, after, found := strings.Cut(word, "%")
		if before != "" {
			l.parts = append(l.parts, part{text: before})
		}
		if !found {
			break
		}
		if after == "" || !strings.Contains("cu%", after[:1]) {
			return level{}, errors.New("has a % that is not %c, %u or %%")
		}
		if after[0] == '%' {
			l.parts = append(l.parts, part{text: "%"})
		} else {
			l.parts = append(l.parts, part{variable: after[0]})
		}
		word = after[1:]
	}
	return l, nil
}

// applies reports whether the subject has the names that the pattern needs. A name that could widen the pattern
// (wildcards, a level separator, a leading $) or that is empty makes the pattern match nothing.
func (p *pattern) applies(s *subject) bool {
	return (!p.needsClient || isPlainLevel(s.client)) && (!p.needsUser || isPlainLevel(s.user))
}

func isPlainLevel(name string) bool {
	return name != "" && name[0] != '$' && !strings.ContainsAny(name, "+#/\x00")
}

// is reports whether word is exactly this literal or template level.
func (l *level) is(word string, s *subject) bool {
	if l.kind == literal {
		return l.text == word
	}
	for _, p := range l.parts {
		rest, ok := strings.CutPrefix(word, p.value(s))
		if !ok {
			return false
		}
		word = rest
	}
	return word == ""
}

// covers reports whether the pattern matches every topic that filter matches. A topic without wildcards is a filter
// that matches itself. As in MQTT, a wildcard in the first level does not match topics that begin with $.
func (p *pattern) covers(filter string, s *subject) bool {
	if !p.applies(s) {
		return false
	}
	if strings.HasPrefix(filter, "$") && p.levels[0].kind >= plus {
		return false
	}
	rest, more := filter, true
	for i := range p.levels {
		l := &p.levels[i]
		if l.kind == hash {
			return true
		}
		if !more {
			return false
		}
		var word string
		word, rest, more = strings.Cut(rest, "/")
		switch {
		case word == "#":
			return false
		case l.kind == plus:
		case word == "+" || !l.is(word, s):
			return false
		}
	}
	return !more
}

// overlaps reports whether some topic is matched by the pattern and by filter. Other than in covers, a wildcard in the
// pattern's first level also meets topics that begin with $, so that "deny #" leaves nothing open.
func (p *pattern) overlaps(filter string, s *subject) bool {
	if !p.applies(s) {
		return false
	}
	first := &p.levels[0]
	if first.kind == literal && strings.HasPrefix(first.text, "$") && (filter[:1] == "+" || filter[:1] == "#") {
		return false
	}
	rest, more := filter, true
	for i := range p.levels {
		l := &p.levels[i]
		if l.kind == hash || more && rest == "#" {
			return true
		}
		if !more {
			return false
		}
		var word string
		word, rest, more = strings.Cut(rest, "/")
		if l.kind != plus && word != "+" && !l.is(word, s) {
			return false
		}
	}
	return !more || rest == "#"
}
