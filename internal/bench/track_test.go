package bench

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTrack(t *testing.T) {
	cases := []struct {
		name                             string
		seqs                             []uint64
		sent                             uint64
		unowed                           []uint64
		received, duplicates, outOfOrder uint64
		missing                          uint64
	}{
		{"nothing", nil, 3, nil, 0, 0, 0, 3},
		{"in order", []uint64{0, 1, 2}, 3, nil, 3, 0, 0, 0},
		{"a gap", []uint64{0, 3}, 4, nil, 2, 0, 0, 2},
		{"the end is missing", []uint64{0}, 4, nil, 1, 0, 0, 3},
		{"a gap filled from both ends", []uint64{0, 5, 1, 4, 3, 2}, 6, nil, 6, 0, 4, 0},
		{"a gap split", []uint64{0, 6, 3}, 7, nil, 3, 0, 1, 4},
		{"a duplicate of the last", []uint64{0, 1, 1}, 2, nil, 2, 1, 0, 0},
		{"a duplicate of a late one", []uint64{0, 2, 1, 1}, 3, nil, 3, 1, 1, 0},
		{"the missing one is not owed", []uint64{0, 2}, 3, []uint64{1}, 2, 0, 0, 0},
		{"the missing end is not owed", []uint64{0}, 3, []uint64{1, 2}, 1, 0, 0, 0},
		{"one not owed came all the same", []uint64{0, 1}, 3, []uint64{1}, 2, 0, 0, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var tr track
			for _, seq := range c.seqs {
				tr.see(seq)
			}
			assert.Equal(t, []uint64{c.received, c.duplicates, c.outOfOrder, c.missing},
				[]uint64{tr.received, tr.duplicates, tr.outOfOrder, tr.missing(c.sent, c.unowed)})
		})
	}
}

func TestTrackIsBounded(t *testing.T) {
	var tr track
	for seq := uint64(1); seq < 3*maxGaps; seq += 2 {
		tr.see(seq)
	}
	assert.LessOrEqual(t, len(tr.gaps), maxGaps)
	assert.EqualValues(t, 3*maxGaps/2, tr.missing(3*maxGaps, nil))
}

// FuzzTrack holds the tracker against a plain set.
func FuzzTrack(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	f.Add([]byte{9, 4, 4, 9, 0, 200})
	f.Fuzz(func(t *testing.T, seqs []byte) {
		var tr track
		seen := map[uint64]bool{}
		highest := -1
		var duplicates, outOfOrder uint64
		for _, b := range seqs {
			seq := uint64(b)
			switch {
			case seen[seq]:
				duplicates++
			case int(seq) < highest:
				outOfOrder++
			}
			require.Equal(t, !seen[seq], tr.see(seq))
			seen[seq] = true
			highest = max(highest, int(seq))
		}
		require.EqualValues(t, len(seen), tr.received)
		require.Equal(t, duplicates, tr.duplicates)
		require.Equal(t, outOfOrder, tr.outOfOrder)
		require.EqualValues(t, 256-len(seen), tr.missing(256, nil))
		for seq := range uint64(256) {
			require.Equal(t, !seen[seq], tr.lacks(seq))
		}
	})
}
