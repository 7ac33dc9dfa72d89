package conformance

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstockmq/penstock/broker"
)

// statement is one normative statement, in our words. Exactly one of check, client and unseen is set.
type statement struct {
	id     string     // its number in the specification, or the section of one that has no number
	says   string     // what it demands; it is the name of the sub-test, so it has no slashes
	check  func(*env) // tests it
	client string     // it binds clients, and a server cannot notice or need not care: why
	unseen string     // it binds servers, and cannot be observed or cannot arise: why
}

func (s *statement) name() string {
	if isNumbered(s.id) {
		return "[MQTT-" + s.id + "] " + s.says
	}
	return s.id + " " + s.says
}

func isNumbered(id string) bool { return strings.Contains(id, "-") }

func TestMain(m *testing.M) {
	flag.Parse()
	// The cases wait far more than they work.
	if err := flag.Set("test.parallel", "32"); err != nil {
		fmt.Fprintln(os.Stderr, "set -parallel:", err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

func TestMQTT311(t *testing.T) { runAll(t, 4, statements311(), false) }

func TestMQTT5(t *testing.T) { runAll(t, 5, statements5(), false) }

// TestMQTT5Unnumbered tests what MQTT 5 demands without giving it a number.
func TestMQTT5Unnumbered(t *testing.T) { runAll(t, 5, unnumbered5, false) }

// TestStreamDriver runs all of it on connections with a goroutine each, where plain TCP is otherwise served by epoll.
func TestStreamDriver(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no other driver on " + runtime.GOOS)
	}
	t.Run("MQTT311", func(t *testing.T) { runAll(t, 4, statements311(), true) })
	t.Run("MQTT5", func(t *testing.T) { runAll(t, 5, slices.Concat(statements5(), unnumbered5), true) })
}

var cases atomic.Int64

func newPrefix() string { return "c" + strconv.FormatInt(cases.Add(1), 10) }

// runAll runs every case on one broker; those that need other limits, or topics for themselves, start their own.
func runAll(t *testing.T, version byte, statements []statement, streamOnly bool) {
	n := startDurable(t, broker.Options{ResponseInformation: "answers/%c", StreamOnly: streamOnly})
	for _, s := range statements {
		if s.check == nil {
			continue
		}
		t.Run(s.name(), func(t *testing.T) {
			t.Parallel()
			s.check(&env{T: t, node: n, version: version, prefix: newPrefix(), streamOnly: streamOnly})
		})
	}
}

// The numbers that each specification's list of normative statements has: a section, its first and its last number.
const (
	numbers311 = "1.5.3:1-3 2.2.2:1-2 2.3.1:1-7 3.1.0:1-2 3.1.2:1-24 3.1.3:1-11 3.1.4:1-5 3.2.0:1-1 3.2.2:1-6 " +
		"3.3.1:1-12 3.3.2:1-3 3.3.4:1-1 3.3.5:1-2 3.6.1:1-1 3.8.1:1-1 3.8.3:1-4 3.8.4:1-6 3.9.3:1-2 3.10.1:1-1 " +
		"3.10.3:1-2 3.10.4:1-6 3.12.4:1-1 3.14.1:1-1 3.14.4:1-3 4.1.0:1-2 4.3.1:1-1 4.3.2:1-2 4.3.3:1-2 4.4.0:1-1 " +
		"4.5.0:1-2 4.6.0:1-6 4.7.1:1-3 4.7.2:1-1 4.7.3:1-4 4.8.0:1-2 6.0.0:1-4 7.0.0:1-2 7.1.1:1-1 7.1.2:1-1"
	numbers5 = "1.5.4:1-3 1.5.5:1-1 1.5.7:1-1 2.1.3:1-1 2.2.1:2-6 2.2.2:1-1 3.1.0:1-2 3.1.2:1-30 3.1.3:1-12 " +
		"3.1.4:1-6 3.2.0:1-2 3.2.2:1-22 3.3.1:1-13 3.3.2:1-20 3.3.4:1-10 3.4.2:1-3 3.5.2:1-3 3.6.1:1-1 3.6.2:1-3 " +
		"3.7.2:1-3 3.8.1:1-1 3.8.3:1-5 3.8.4:1-8 3.9.2:1-2 3.9.3:1-2 3.10.1:1-1 3.10.3:1-2 3.10.4:1-6 3.11.2:1-2 " +
		"3.11.3:1-2 3.12.4:1-1 3.14.0:1-1 3.14.1:1-1 3.14.2:1-4 3.14.4:1-3 3.15.1:1-1 3.15.2:1-3 4.1.0:1-2 4.2.0:1-1 " +
		"4.3.1:1-1 4.3.2:1-5 4.3.3:1-13 4.4.0:1-2 4.5.0:1-2 4.6.0:1-6 4.7.0:1-1 4.7.1:1-2 4.7.2:1-1 4.7.3:1-4 " +
		"4.8.2:1-6 4.9.0:1-3 4.12.0:1-7 4.12.1:1-2 4.13.1:1-1 4.13.2:1-1 6.0.0:1-4"
)

func TestEveryStatementIsListed(t *testing.T) {
	for version, c := range map[string]struct {
		numbers    string
		statements []statement
	}{"3.1.1": {numbers311, statements311()}, "5": {numbers5, statements5()}} {
		want := expand(t, c.numbers)
		for i, s := range c.statements {
			if i >= len(want) || s.id != want[i] {
				t.Fatalf("MQTT %s: %s, statement %d of the table, is not the next in the specification", version, s.id, i)
			}
		}
		if len(c.statements) != len(want) {
			t.Fatalf("MQTT %s: the table ends before %s", version, want[len(c.statements)])
		}
		checkFields(t, c.statements)
	}
	checkFields(t, unnumbered5)
}

func checkFields(t *testing.T, statements []statement) {
	names := map[string]bool{}
	for _, s := range statements {
		set := 0
		for _, is := range []bool{s.check != nil, s.client != "", s.unseen != ""} {
			if is {
				set++
			}
		}
		if set != 1 || s.says == "" || strings.Contains(s.says, "/") || names[s.name()] {
			t.Errorf("%s needs a name of its own without slashes and exactly one of check, client and unseen", s.name())
		}
		names[s.name()] = true
	}
}

func expand(t *testing.T, numbers string) (ids []string) {
	for _, part := range strings.Fields(numbers) {
		section, span, _ := strings.Cut(part, ":")
		var first, last int
		if _, err := fmt.Sscanf(span, "%d-%d", &first, &last); err != nil {
			t.Fatal(part, err)
		}
		for n := first; n <= last; n++ {
			ids = append(ids, section+"-"+strconv.Itoa(n))
		}
	}
	return ids
}
