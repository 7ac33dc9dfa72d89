package topic

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckName(t *testing.T) {
	tests := map[string]struct {
		topic string
		max   int
		want  error
	}{
		"one level":            {topic: "a"},
		"many levels":          {topic: "devices/pump-7/up/temperature"},
		"empty levels":         {topic: "//"},
		"dollar":               {topic: "$SYS/broker"},
		"share is just a name": {topic: "$share/g/a"},
		"not ASCII":            {topic: "дом/温度"},
		"as many as allowed":   {topic: "a/b/c", max: 3},
		"one too many":         {topic: "a/b/c/d", max: 3, want: ErrLevels},
		"65,535 levels":        {topic: strings.Repeat("/", 65_534), max: 128, want: ErrLevels},
		"no limit":             {topic: strings.Repeat("/", 65_534)},
		"empty":                {topic: "", want: ErrEmpty},
		"plus":                 {topic: "a/+/b", want: ErrNameWildcard},
		"hash":                 {topic: "a/#", want: ErrNameWildcard},
		"plus in a word":       {topic: "a+b", want: ErrNameWildcard},
		"NUL":                  {topic: "a\x00b", want: ErrNUL},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, CheckName(test.topic, test.max), test.want)
		})
	}
}

func TestCheckFilter(t *testing.T) {
	tests := map[string]struct {
		filter string
		max    int
		want   error
	}{
		"exact":                      {filter: "a/b"},
		"everything":                 {filter: "#"},
		"plus alone":                 {filter: "+"},
		"plus everywhere":            {filter: "+/+/+"},
		"hash at the end":            {filter: "a/+/#"},
		"empty levels":               {filter: "/+//#"},
		"only a slash":               {filter: "/"},
		"shared":                     {filter: "$share/g/a/+/b"},
		"shared everything":          {filter: "$share/g/#"},
		"shared empty levels":        {filter: "$share/g//"},
		"dollar but not shared":      {filter: "$shared/g"},
		"limit does not count share": {filter: "$share/g/a/b", max: 2},
		"limit":                      {filter: "a/b/#", max: 2, want: ErrLevels},
		"limit shared":               {filter: "$share/g/a/b/c", max: 2, want: ErrLevels},
		"empty":                      {filter: "", want: ErrEmpty},
		"hash not last":              {filter: "a/#/b", want: ErrHash},
		"hash after a word":          {filter: "a/b#", want: ErrHash},
		"hash before a word":         {filter: "a/#b", want: ErrHash},
		"two hashes":                 {filter: "##", want: ErrHash},
		"plus after a word":          {filter: "a+/b", want: ErrPlus},
		"plus before a word":         {filter: "a/+b", want: ErrPlus},
		"two pluses":                 {filter: "a/++", want: ErrPlus},
		"plus and hash":              {filter: "+#", want: ErrPlus},
		"NUL":                        {filter: "a\x00", want: ErrNUL},
		"share alone":                {filter: "$share", want: ErrShareGroup},
		"share and nothing":          {filter: "$share/", want: ErrShareGroup},
		"share without group":        {filter: "$share//a", want: ErrShareGroup},
		"share without filter":       {filter: "$share/g", want: ErrShareNoFilter},
		"share with empty filter":    {filter: "$share/g/", want: ErrShareNoFilter},
		"wildcard in the group":      {filter: "$share/g+/a", want: ErrShareGroup},
		"hash as the group":          {filter: "$share/#/a", want: ErrShareGroup},
		"NUL in the group":           {filter: "$share/\x00/a", want: ErrShareGroup},
		"bad filter behind share":    {filter: "$share/g/a#", want: ErrHash},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, CheckFilter(test.filter, test.max), test.want)
		})
	}
}

func TestSplitShare(t *testing.T) {
	tests := map[string]struct{ filter, group, rest string }{
		"plain":          {"a/b", "", "a/b"},
		"shared":         {"$share/g/a/b", "g", "a/b"},
		"shared slash":   {"$share/g//", "g", "/"},
		"another dollar": {"$SYS/a/b", "", "$SYS/a/b"},
		"invalid":        {"$share/g", "", "$share/g"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			group, rest := SplitShare(test.filter)
			require.Equal(t, test.group, group)
			require.Equal(t, test.rest, rest)
		})
	}
}

// matchCases are shared by Match, Index and Retained.
var matchCases = []struct {
	filter, topic string
	want          bool
}{
	{"a", "a", true}, {"a", "b", false}, {"a", "a/b", false}, {"a/b", "a", false}, {"a/b", "a/b", true},
	{"a", "a/", false}, {"a/", "a", false}, {"a/", "a/", true}, {"/a", "a", false}, {"/a", "/a", true},
	{"+", "a", true}, {"+", "a/b", false}, {"+", "/a", false}, {"+/+", "/a", true}, {"/+", "/a", true},
	{"+", "/", false}, {"+/+", "/", true}, {"a/+", "a", false}, {"a/+", "a/", true}, {"a/+/c", "a/b/c", true},
	{"a/+/c", "a/b/b/c", false}, {"a/+/c", "a//c", true}, {"+/b", "a/b", true}, {"+/b", "a/c", false},
	{"#", "a", true}, {"#", "a/b/c", true}, {"#", "/", true}, {"a/#", "a", true}, {"a/#", "a/", true},
	{"a/#", "a/b/c", true}, {"a/#", "b", false}, {"a/#", "ab", false}, {"a/b/#", "a", false}, {"+/#", "a", true},
	{"+/#", "a/b", true}, {"a/+/#", "a", false}, {"a/+/#", "a/b", true}, {"/#", "a", false}, {"/#", "/", true},
	{"#", "$SYS", false}, {"#", "$SYS/a", false}, {"+", "$SYS", false}, {"+/a", "$SYS/a", false},
	{"+/#", "$SYS/a", false}, {"$SYS/#", "$SYS/a", true}, {"$SYS/#", "$SYS", true}, {"$SYS/+", "$SYS/a", true},
	{"$SYS/a", "$SYS/a", true}, {"a/+", "a/$b", true}, {"a/#", "a/$b", true}, {"a/$b", "a/$b", true},
	{"#", "$", false}, {"$/#", "$", true}, {"дом/+", "дом/温度", true},
}

func TestMatch(t *testing.T) {
	for _, test := range matchCases {
		t.Run(test.filter+" "+test.topic, func(t *testing.T) {
			require.Equal(t, test.want, Match(test.filter, test.topic))
		})
	}
}

func FuzzCheckFilter(f *testing.F) {
	for _, seed := range []string{"a/b", "a/#", "+/+", "$share/g/a", "$share/g/#", "a+", "#/a", "", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, filter string) {
		if CheckFilter(filter, 0) != nil {
			return
		}
		_, rest := SplitShare(filter)
		require.NoError(t, CheckFilter(rest, 0), "what is left without $share")
		for level := range strings.SplitSeq(strings.TrimSuffix(rest, "#"), "/") {
			require.True(t, level == "+" || !HasWildcard(level))
		}
		name := strings.NewReplacer("+", "x", "#", "x/y").Replace(rest)
		require.NoError(t, CheckName(name, 0))
		require.True(t, Match(rest, name), "%q %q", rest, name)
	})
}
