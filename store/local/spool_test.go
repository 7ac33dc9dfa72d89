package local

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/bridge"
	"github.com/penstockmq/penstock/hooks/uplink"
)

func spoolRecord(i int, size int) *uplink.Record {
	return &uplink.Record{Topic: "t", Key: []byte(fmt.Sprint("k", i)), Value: bytes.Repeat([]byte{'v'}, size),
		ClientID: "c", Time: int64(i), Headers: []uplink.Header{{Key: []byte("h"), Value: []byte(fmt.Sprint(i))}}}
}

func appendSeqs(t *testing.T, s *Spool, seqs ...uint64) (taken int, err error) {
	t.Helper()
	entries := make([]bridge.Entry, len(seqs))
	for i, seq := range seqs {
		entries[i] = bridge.Entry{Seq: seq, Record: spoolRecord(int(seq), 100)}
	}
	type outcome struct {
		taken int
		err   error
	}
	result := make(chan outcome, 1)
	s.Append(entries, func(n int, e error) { result <- outcome{n, e} })
	o := <-result
	return o.taken, o.err
}

func readSeqs(t *testing.T, s *Spool, from uint64, limit, maxBytes int) (seqs []uint64, bytes int64) {
	t.Helper()
	entries, err := s.Read(from, limit, maxBytes)
	require.NoError(t, err)
	for _, e := range entries {
		assert.Equal(t, spoolRecord(int(e.Seq), 100), e.Record)
		seqs = append(seqs, e.Seq)
		bytes += e.Size
	}
	return seqs, bytes
}

func TestSpoolKeepsOrderOverReopening(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(dir, Options{})
	require.NoError(t, err)
	s, err := db.OpenSpool(1 << 20)
	require.NoError(t, err)
	assert.Equal(t, bridge.SpoolStats{First: 1}, s.Stats())

	for _, seqs := range [][]uint64{{7, 8}, {3, 4, 5}} { // older ones may come later
		taken, err := appendSeqs(t, s, seqs...)
		require.NoError(t, err)
		require.Equal(t, len(seqs), taken)
	}
	seqs, size := readSeqs(t, s, 0, 100, 1<<20)
	assert.Equal(t, []uint64{3, 4, 5, 7, 8}, seqs)
	assert.Equal(t, bridge.SpoolStats{Messages: 5, Bytes: size, First: 3, Last: 8}, s.Stats())
	seqs, _ = readSeqs(t, s, 4, 2, 1<<20)
	assert.Equal(t, []uint64{4, 5}, seqs, "at most limit")
	seqs, _ = readSeqs(t, s, 4, 9, 1)
	assert.Equal(t, []uint64{4}, seqs, "always one")

	s.Remove(4, 2, 2*size/5)
	require.NoError(t, s.SetAside(bridge.Entry{Seq: 7, Record: spoolRecord(7, 100), Size: size / 5}, "too large"))
	before := s.Stats()
	assert.EqualValues(t, 1, before.SetAside)
	require.NoError(t, db.Close())

	db, err = Open(dir, Options{})
	require.NoError(t, err)
	defer db.Close()
	s, err = db.OpenSpool(1 << 20)
	require.NoError(t, err)
	assert.Equal(t, before, s.Stats(), "counting again gives the same")
	seqs, _ = readSeqs(t, s, 0, 100, 1<<20)
	assert.Equal(t, []uint64{5, 8}, seqs)
	other, err := db.OpenUplinkLog(1 << 20)
	require.NoError(t, err)
	assert.Zero(t, other.Stats().Messages, "the log is another place")
}

func TestSpoolTakesWhatFits(t *testing.T) {
	db, err := Open("", Options{})
	require.NoError(t, err)
	defer db.Close()
	one := spoolSize(appendRecord(nil, spoolRecord(1, 100)))
	s, err := db.OpenSpool(3*one + one/2)
	require.NoError(t, err)

	taken, err := appendSeqs(t, s, 1, 2)
	require.NoError(t, err)
	assert.Equal(t, 2, taken)
	taken, err = appendSeqs(t, s, 3, 4, 5)
	require.NoError(t, err)
	assert.Equal(t, 1, taken)
	taken, err = appendSeqs(t, s, 6)
	require.NoError(t, err)
	assert.Zero(t, taken)
	assert.Equal(t, bridge.SpoolStats{Messages: 3, Bytes: 3 * one, First: 1, Last: 3}, s.Stats())

	s.Remove(1, 1, one)
	taken, err = appendSeqs(t, s, 6)
	require.NoError(t, err)
	assert.Equal(t, 1, taken)
}

func TestSpoolAfterClose(t *testing.T) {
	db, err := Open("", Options{})
	require.NoError(t, err)
	s, err := db.OpenSpool(1 << 20)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = appendSeqs(t, s, 1)
	assert.ErrorIs(t, err, ErrClosed)
	assert.Zero(t, s.Stats().Bytes, "the room is given back")
}

func TestRecordsSurviveTheirCoding(t *testing.T) {
	for name, r := range map[string]*uplink.Record{
		"full":      spoolRecord(1, 10),
		"no key":    {Topic: "t", Value: []byte{}, Time: -5},
		"empty key": {Topic: "t", Key: []byte{}, Value: []byte("v")},
		"empty value": {Topic: "t", Key: []byte("k"), Value: []byte{},
			Headers: []uplink.Header{{Key: []byte{}, Value: []byte{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseRecord(appendRecord(nil, r))
			require.NoError(t, err)
			assert.Equal(t, r, got)
		})
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(appendRecord(nil, spoolRecord(1, 10)))
	f.Add(appendRecord(nil, &uplink.Record{}))
	f.Add([]byte{})
	f.Add([]byte{recordVersion, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		again, err := parseRecord(appendRecord(nil, r))
		if err != nil || !assert.ObjectsAreEqual(r, again) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}

func BenchmarkSpoolAppend(b *testing.B) {
	db, err := Open(b.TempDir(), Options{})
	require.NoError(b, err)
	defer db.Close()
	s, err := db.OpenSpool(1 << 40)
	require.NoError(b, err)
	const batch = 512
	b.ReportAllocs()
	b.SetBytes(1024)
	for done, seq := 0, uint64(1); done < b.N; done += batch {
		entries := make([]bridge.Entry, batch)
		for i := range entries {
			entries[i] = bridge.Entry{Seq: seq, Record: spoolRecord(1, 1024)}
			seq++
		}
		finished := make(chan error, 1)
		s.Append(entries, func(_ int, err error) { finished <- err })
		require.NoError(b, <-finished)
	}
}
