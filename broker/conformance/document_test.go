package conformance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/CONFORMANCE.md")

// TestDocument keeps docs/CONFORMANCE.md in step with the tables.
func TestDocument(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "CONFORMANCE.md")
	want := document()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Fatal("docs/CONFORMANCE.md does not match the tables: go test ./broker/conformance -run TestDocument -update")
	}
}

const preamble = `# Conformance

<!-- Written by: go test ./broker/conformance -run TestDocument -update -->

What MQTT demands, statement by statement, and what tests that the broker does it. The numbers are those of the
specifications (3.1.1: Appendix B; 5.0: Appendix B); the words are ours. Each test drives a broker over sockets; the
column «test» names its function in broker/conformance, and the statement's number selects it:

    go test ./broker/conformance -run 'TestMQTT5/\[MQTT-3.1.2-4\]'

tested: a test fails if the broker departs from it; for a statement that binds clients, the test shows what the broker
does with one that breaks it. client: it binds clients only, and the broker has no part in it. not observable: it binds
servers, but nothing that comes over a socket could show a breach, or its condition never arises here.

`

func document() string {
	var b strings.Builder
	b.WriteString(preamble)
	lists := []struct {
		title      string
		statements []statement
	}{
		{"MQTT 5.0", statements5()},
		{"MQTT 3.1.1", statements311()},
		{"MQTT 5.0, demands without a number", unnumbered5},
	}
	b.WriteString("| version | statements | tested | client | not observable |\n|---|---|---|---|---|\n")
	for _, l := range lists {
		counts := map[string]int{}
		for _, s := range l.statements {
			status, _ := s.status()
			counts[status]++
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", l.title, len(l.statements),
			counts["tested"], counts["client"], counts["not observable"])
	}
	for _, l := range lists {
		fmt.Fprintf(&b, "\n## %s\n\n| statement | what it demands | status | test, or why there is none |\n", l.title)
		b.WriteString("|---|---|---|---|\n")
		for _, s := range l.statements {
			status, why := s.status()
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.title(), strings.ReplaceAll(s.says, "|", `\|`), status, why)
		}
	}
	return b.String()
}

func (s *statement) title() string {
	if isNumbered(s.id) {
		return "MQTT-" + s.id
	}
	return "section " + s.id
}

func (s *statement) status() (status, why string) {
	switch {
	case s.check != nil:
		name := runtime.FuncForPC(reflect.ValueOf(s.check).Pointer()).Name()
		return "tested", "`" + name[strings.LastIndexByte(name, '.')+1:] + "`"
	case s.client != "":
		return "client", s.client
	default:
		return "not observable", s.unseen
	}
}
