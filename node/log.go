package node

import (
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
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
