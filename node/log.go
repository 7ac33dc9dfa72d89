package node

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
)

// LogConfig is the section log.
type LogConfig struct {
	Level  string `yaml:"level" default:"info" doc:"Least level that is written: debug, info, warn or error; can be changed by SIGHUP."`
	Format string `yaml:"format" default:"text" doc:"text or json."`
}

// Validate reports words that are not known.
func (c *LogConfig) Validate(report func(key, problem string)) {
	if _, err := c.level(); err != nil {
		report("level", "must be debug, info, warn or error")
	}
	if !slices.Contains([]string{"text", "json"}, c.Format) {
		report("format", "must be text or json")
	}
}

func (c *LogConfig) level() (level slog.Level, err error) {
	err = level.UnmarshalText([]byte(c.Level))
	return level, err
}

// newLogger writes to w. Its level can be changed while it is in use.
func newLogger(w io.Writer, c LogConfig, level *slog.LevelVar) *slog.Logger {
	w = escaper{w}
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// escaper writes DEL and the C1 control characters (U+007F to U+009F) as \u00XX. Both handlers of slog pass some of
// them on as they are, and a terminal takes U+009B for the beginning of a command: a client's text must not steer the
// terminal of whoever reads the log. In JSON the escape is the same character, and nothing but text can hold one.
type escaper struct{ w io.Writer }

// Write takes one line, as slog gives it: no character is split over two writes.
func (e escaper) Write(line []byte) (int, error) {
	at := controlIn(line)
	if at < 0 {
		return e.w.Write(line)
	}
	out := make([]byte, 0, len(line)+32)
	rest := line
	for ; at >= 0; at = controlIn(rest) {
		out = append(out, rest[:at]...)
		code, size := rest[at], 1
		if code == c1Lead {
			code, size = rest[at+1], 2
		}
		out = fmt.Appendf(out, `\u%04x`, code)
		rest = rest[at+size:]
	}
	if _, err := e.w.Write(append(out, rest...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// c1Lead is the first byte of U+0080 to U+00BF in UTF-8. For the control characters among them the second byte is below
// 0xA0, and is the character's number.
const c1Lead = 0xC2

// controlIn returns the position of the first character to escape, or -1.
func controlIn(line []byte) int {
	for i, c := range line {
		if c == 0x7F || c == c1Lead && i+1 < len(line) && line[i+1] < 0xA0 {
			return i
		}
	}
	return -1
}
