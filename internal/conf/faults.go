package conf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	Key     string // the full key, for example auth.products[0].secret; empty for the file as a whole
	Line    int    // in the file; 0: not known, or it did not come from a file
	Origin  string // the file's name or the environment variable; empty for a default
	Problem string
}

func (f Fault) String() string {
	var b strings.Builder
	switch {
	case f.Line > 0:
		fmt.Fprintf(&b, "%s:%d: ", f.Origin, f.Line)
	case f.Origin != "":
		fmt.Fprintf(&b, "%s: ", f.Origin)
	}
	if f.Key != "" {
		fmt.Fprintf(&b, "%s: ", f.Key)
	}
	b.WriteString(f.Problem)
	return b.String()
}

// Faults is everything that is wrong with a configuration, as one error.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, 0, len(f)+1)
	lines = append(lines, fmt.Sprintf("configuration has %d %s:", len(f), countWord(len(f), "fault")))
	for _, fault := range f {
		lines = append(lines, "  "+fault.String())
	}
	return strings.Join(lines, "\n")
}

func countWord(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// sorted puts the faults in the order of the file; those that are not in it come first, by key.
func (f Faults) sorted() Faults {
	slices.SortStableFunc(f, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	return f
}

// suggest returns the known name that is nearest to a misspelt one, or "" when none is near.
func suggest(wrong string, known []string) string {
	best, bestDistance := "", len(wrong)/3+2
	for _, name := range known {
		if d := distance(strings.ToLower(wrong), strings.ToLower(name)); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours that turn a into b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b)) // no key is that long: not worth a table
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

func unknownKey(name string, known []string) string {
	if near := suggest(name, known); near != "" {
		return fmt.Sprintf("unknown key (did you mean %s?)", near)
	}
	return "unknown key (known here: " + strings.Join(known, ", ") + ")"
}
