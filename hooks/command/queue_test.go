package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

// drain acknowledges everything that comes to a device, and returns the payloads in their order.
func (r *rig) drain(device string) (payloads []string) {
	for {
		s, ok := r.b.take(device)
		if !ok {
			return payloads
		}
		payloads = append(payloads, string(s.m.Payload))
		s.h.Acked(0)
		synctest.Wait()
	}
}

func TestOrderOfDelivery(t *testing.T) {
	issue := func(r *rig, payload string, more string) {
		r.issue(`{"targets":{"devices":["pump"]},"payload":%q%s}`, payload, more)
	}
	cases := map[string]struct {
		change func(*Config)
		issue  func(r *rig)
		want   []string
	}{
		"first in, first out": {
			issue: func(r *rig) {
				for i := range 5 {
					issue(r, fmt.Sprint(i), "")
				}
			},
			want: []string{"0", "1", "2", "3", "4"},
		},
		"higher priority first, in order within": {
			issue: func(r *rig) {
				issue(r, "low", `,"priority":1`)
				issue(r, "high 1", `,"priority":9`)
				issue(r, "none", "")
				issue(r, "high 2", `,"priority":9`)
			},
			want: []string{"high 1", "high 2", "low", "none"},
		},
		"collapse key keeps the newest": {
			issue: func(r *rig) {
				issue(r, "set 1", `,"collapse_key":"set"`)
				issue(r, "other", `,"collapse_key":"other"`)
				issue(r, "set 2", `,"collapse_key":"set"`)
				issue(r, "set 3", `,"collapse_key":"set"`)
			},
			want: []string{"other", "set 3"},
		},
		"full queue rejects": {
			change: func(c *Config) { c.Queue = 2 },
			issue: func(r *rig) {
				for i := range 4 {
					issue(r, fmt.Sprint(i), "")
				}
			},
			want: []string{"0", "1"},
		},
		"full queue drops the oldest": {
			change: func(c *Config) { c.Queue, c.QueuePolicy = 2, PolicyDropOldest },
			issue: func(r *rig) {
				for i := range 4 {
					issue(r, fmt.Sprint(i), "")
				}
			},
			want: []string{"2", "3"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inBubble(t, c.change, func(r *rig) {
				c.issue(r)
				r.connect("pump")
				require.Equal(t, c.want, r.drain("pump"))
				require.Empty(t, r.s.shard("pump").devices)
				require.Zero(t, r.s.waiting())
			})
		})
	}
}

func TestWindowOfOneHoldsBackItsLaneOnly(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		r.one("pump", `,"lane":"a"`)
		second := r.one("pump", `,"lane":"a"`)
		other := r.one("pump", `,"lane":"b"`)
		r.state(second.ID, Queued)
		r.state(other.ID, Sent)
		r.ack("pump", 0)
		r.state(second.ID, Sent)
	})
}

func TestRedeliveryKeepsOrder(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		for i := range 3 {
			r.issue(`{"targets":{"devices":["pump"]},"payload":%d}`, i)
		}
		r.disconnect("pump")
		r.connect("pump")
		r.sleep(time.Second)
		require.Equal(t, []string{"0", "1", "2"}, r.drain("pump"))
		require.Equal(t, []string{"0", "0", "1", "2"}, r.sentTo("pump"))
	})
}

func TestSupersededIsCanceled(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		old := r.one("pump", `,"collapse_key":"k"`)
		r.one("pump", `,"collapse_key":"k"`)
		require.Equal(t, "superseded", r.state(old.ID, Canceled).Reason)
	})
}

func TestSentOneIsNotSuperseded(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		old := r.one("pump", `,"collapse_key":"k"`)
		r.one("pump", `,"collapse_key":"k"`)
		r.state(old.ID, Sent)
	})
}

func TestPauseAndResume(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		held := r.one("pump", "")
		st, err := r.s.Pause(context.Background(), held.ID)
		require.NoError(t, err)
		require.Equal(t, StatePaused, st.State)
		after := r.one("pump", "")
		r.connect("pump")
		r.state(held.ID, Queued)
		r.state(after.ID, Sent)
		r.ack("pump", 0)
		r.crash()
		require.Equal(t, StatePaused, r.status(held.ID).State)
		r.connect("pump")
		r.state(held.ID, Queued)
		_, err = r.s.Resume(context.Background(), held.ID)
		require.NoError(t, err)
		synctest.Wait()
		r.state(held.ID, Sent)
	})
}

func TestCancelWithdrawsWhatWaits(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("b")
		st := r.issue(`{"targets":{"devices":["a","b"]},"payload":1,"result_timeout_s":60}`)
		r.ack("b", 0)
		st, err := r.s.Cancel(context.Background(), st.ID)
		require.NoError(t, err)
		require.Equal(t, StateCanceled, st.State)
		require.Equal(t, Counts{Total: 2, Canceled: 1, Delivered: 1}, st.Counts)
		require.NoError(t, r.result("b", st.ID+"-1", "ok"))
		r.connect("a")
		require.Empty(t, r.sentTo("a"))
		again, err := r.s.Cancel(context.Background(), st.ID)
		require.NoError(t, err)
		require.Equal(t, Counts{Total: 2, Canceled: 1, Succeeded: 1}, again.Counts)
		_, err = r.s.Cancel(context.Background(), "nothing")
		require.ErrorContains(t, err, "nothing")
	})
}

func TestRetryStartsWhatDidNotSucceed(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("ok", "bad")
		st := r.issue(`{"targets":{"devices":["ok","bad","away"]},"payload":"p","ttl_s":10}`)
		r.ack("ok", 0)
		r.ack("bad", 0)
		require.NoError(t, r.result("ok", st.ID+"-0", "fine"))
		require.NoError(t, r.result("bad", st.ID+"-1", `{"state":"FAILED"}`))
		r.sleep(11 * time.Second)
		require.Equal(t, Counts{Total: 3, Succeeded: 1, Failed: 1, Expired: 1}, r.status(st.ID).Counts)
		require.Zero(t, r.s.active)

		st, err := r.s.Retry(context.Background(), st.ID)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, StateActive, st.State)
		r.connect("away")
		s := r.ack("away", 0)
		require.Equal(t, st.ID+"-2.1", s.execution())
		require.Equal(t, "p", string(s.m.Payload))
		s = r.ack("bad", 0)
		require.NoError(t, r.result("bad", s.execution(), "now fine"))
		require.Equal(t, Counts{Total: 3, Succeeded: 2, Delivered: 1}, r.status(st.ID).Counts)
		x := r.executions(st.ID)[1]
		require.EqualValues(t, 1, x.Retries)
		require.Equal(t, s.execution(), x.ID)

		st, err = r.s.Retry(context.Background(), st.ID)
		require.NoError(t, err)
		require.Equal(t, StateFinished, st.State, "nothing is left to retry")
		require.Zero(t, r.s.active)
		require.Zero(t, r.s.bytes)
	})
}

func TestLateSuccessOfAnEarlierRoundCounts(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		st := r.one("pump", `,"result_timeout_s":1`)
		r.ack("pump", 0)
		r.sleep(2 * time.Second)
		r.state(st.ID, TimedOut)
		r.disconnect("pump")
		_, err := r.s.Retry(context.Background(), st.ID)
		require.NoError(t, err)
		require.NoError(t, r.result("pump", st.ID+"-0", `{"state":"FAILED"}`))
		r.state(st.ID, Queued)
		require.NoError(t, r.result("pump", st.ID+"-0", "done after all"))
		require.True(t, r.state(st.ID, Succeeded).Late)
		r.connect("pump")
		require.Len(t, r.sentTo("pump"), 1, "it is not done twice")
	})
}

func TestIdempotency(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		body := `{"targets":{"devices":["a","b"]},"payload":{"x":1}}`
		issue := func(key, body string) (Status, error) {
			return r.s.Issue(context.Background(), Input{Key: key, Body: []byte(body)})
		}
		first, err := issue("k", body)
		require.NoError(t, err)
		same, err := issue("k", `{ "payload" : {"x": 1}, "targets": {"devices": ["a", "b", "a"]} }`)
		require.NoError(t, err)
		require.Equal(t, first.ID, same.ID)
		_, err = issue("k", `{"targets":{"devices":["a"]},"payload":{"x":1}}`)
		var p *Problem
		require.ErrorAs(t, err, &p)
		require.Equal(t, 409, p.Status)

		named, err := issue("", `{"id":"mine","targets":{"devices":["a"]},"payload":1}`)
		require.NoError(t, err)
		require.Equal(t, "mine", named.ID)
		r.crash()
		same, err = issue("k", body)
		require.NoError(t, err)
		require.Equal(t, first.ID, same.ID)
		_, err = issue("mine", `{"targets":{"devices":["z"]},"payload":1}`)
		require.ErrorAs(t, err, &p)
		require.Equal(t, 409, p.Status)
		_, err = issue("other", `{"id":"mine","targets":{"devices":["a"]},"payload":1}`)
		require.ErrorAs(t, err, &p)
		require.Equal(t, 422, p.Status)
	})
}

func TestSameKeyAtOnceGivesOneCommand(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		ids := make(chan string, 20)
		for range cap(ids) {
			go func() {
				st, err := r.s.Issue(context.Background(), Input{Key: "k",
					Body: []byte(`{"targets":{"devices":["a"]},"payload":1}`)})
				if err != nil {
					st.ID = err.Error()
				}
				ids <- st.ID
			}()
		}
		first := <-ids
		for range cap(ids) - 1 {
			require.Equal(t, first, <-ids)
		}
		require.Len(t, r.s.order, 1)
	})
}

func TestLimitsOfUnfinishedCommands(t *testing.T) {
	refused := func(r *rig, body string) int {
		_, err := r.s.Issue(context.Background(), Input{Body: []byte(body)})
		var p *Problem
		require.ErrorAs(r, err, &p)
		return p.Status
	}
	inBubble(t, func(c *Config) { c.Active, c.Payload, c.PayloadMemory = 2, 20, 30 }, func(r *rig) {
		r.issue(`{"targets":{"devices":["a"]},"payload":"12345678901234567890","ttl_s":1}`)
		require.Equal(t, 413, refused(r, `{"targets":{"devices":["a"]},"payload":"123456789012345678901"}`))
		require.Equal(t, 429, refused(r, `{"targets":{"devices":["a"]},"payload":"12345678901"}`))
		r.issue(`{"targets":{"devices":["a"]},"payload":1,"ttl_s":1}`)
		require.Equal(t, 429, refused(r, `{"targets":{"devices":["a"]},"payload":1}`))
		r.sleep(2 * time.Second)
		r.issue(`{"targets":{"devices":["a"]},"payload":1}`)
	})
}

func TestOnlineTargets(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("a", "b", "not/a/device")
		st := r.issue(`{"targets":{"online":true},"payload":1}`)
		require.EqualValues(t, 2, st.Counts.Total)
		r.disconnect("a")
		r.disconnect("b")
		st = r.issue(`{"targets":{"online":true},"payload":1}`)
		require.Zero(t, st.Counts.Total)
		require.Equal(t, StateFinished, st.State)
		require.Equal(t, 1, r.s.active)
	})
}

func TestIssueOnTheAdminTopic(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		publish := func(payload string) error {
			answered := make(chan error, 1)
			m := &broker.Message{Topic: "admin/commands", Payload: []byte(payload), Username: "alice",
				Properties: &broker.Properties{ResponseTopic: "reply/here", CorrelationData: []byte("7")}}
			require.True(t, r.s.Wants(m.Topic))
			r.s.Accept(m, func(err error) { answered <- err })
			return <-answered
		}
		require.NoError(t, publish(`{"id":"job","targets":{"devices":["pump"]},"payload":"x"}`))
		var st Status
		require.NoError(t, json.Unmarshal([]byte(r.b.published("reply/here")[0]), &st))
		require.Equal(t, "job", st.ID)
		require.Equal(t, "alice", st.Issuer)
		synctest.Wait()
		require.Contains(t, r.b.published("admin/commands/job/events")[0], `"type":"issued"`)

		var refusal *broker.Refusal
		require.ErrorAs(t, publish(`{"id":"bad","targets":{"devices":["a/b"]},"payload":"x"}`), &refusal)
		require.EqualValues(t, 0x99, refusal.Code.Code)
		require.Contains(t, r.b.published("admin/commands/bad/events")[0], "body.targets.devices[0]")
		require.ErrorAs(t, publish(`{`), &refusal)
		require.Contains(t, r.b.published("admin/commands/refused/events")[0], `"status":400`)
		require.ErrorAs(t, publish(`{"id":"job","targets":{"devices":["other"]},"payload":"x"}`), &refusal)
		require.EqualValues(t, 0x83, refusal.Code.Code)
	})
}

func TestWatchShowsTheLatest(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		st := r.one("pump", "")
		latest, cancel, err := r.s.Watch(st.ID)
		require.NoError(t, err)
		defer cancel()
		r.ack("pump", 0)
		r.sleep(time.Second)
		got := <-latest
		require.True(t, got.Done(), "%+v", got)
		require.EqualValues(t, 1, got.Counts.Delivered)
		require.NoError(t, r.result("pump", st.ID+"-0", "ok"))
		r.sleep(time.Second)
		got = <-latest
		require.EqualValues(t, 1, got.Counts.Succeeded)
	})
}

func TestRetention(t *testing.T) {
	inBubble(t, func(c *Config) { c.Keep, c.KeepMax = time.Hour, 3 }, func(r *rig) {
		var ids []string
		for range 5 {
			ids = append(ids, r.one("pump", `,"ttl_s":1`).ID)
			r.sleep(2 * time.Second)
		}
		waiting := r.one("pump", `,"ttl_s":86400`)
		r.sleep(time.Minute)
		_, err := r.s.Status(ids[1])
		require.Error(t, err, "the oldest go when there are too many")
		r.status(ids[2])
		r.sleep(2 * time.Hour)
		_, err = r.s.Status(ids[4])
		require.Error(t, err, "old ones go")
		r.status(waiting.ID)
		require.Len(t, r.store.records, 1)
		require.Len(t, r.store.executions, 1)
		require.NoError(t, r.result("pump", ids[4]+"-0", "too late"), "acknowledged, or it would come for ever")
		page, err := r.s.List("", 0)
		require.NoError(t, err)
		require.Len(t, page.Commands, 1)
	})
}

func TestPages(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		devices := make([]string, 250)
		for i := range devices {
			devices[i] = fmt.Sprintf("d%03d", i)
		}
		st := r.issue(`{"targets":{"devices":[%s]},"payload":1}`, commaList(devices))
		for range 4 {
			r.one("pump", "")
		}
		var got []string
		for cursor, more := "", true; more; {
			page, err := r.s.Executions(st.ID, "queued", cursor, 100)
			require.NoError(t, err)
			for _, x := range page.Executions {
				got = append(got, x.Device)
			}
			cursor, more = page.Next, page.Next != ""
		}
		require.Equal(t, devices, got)
		n := 0
		for cursor, more := "", true; more; {
			page, err := r.s.List(cursor, 2)
			require.NoError(t, err)
			n += len(page.Commands)
			cursor, more = page.Next, page.Next != ""
		}
		require.Equal(t, 5, n)
		for _, bad := range []func() error{
			func() error { _, err := r.s.Executions(st.ID, "", "x", 0); return err },
			func() error { _, err := r.s.Executions(st.ID, "nowhere", "", 0); return err },
			func() error { _, err := r.s.List("x", 0); return err },
		} {
			var p *Problem
			require.True(t, errors.As(bad(), &p))
			require.Equal(t, 422, p.Status)
			require.Len(t, p.Fields, 1)
		}
	})
}

func TestCrash(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("sent", "delivered", "running", "done")
		st := r.issue(`{"targets":{"devices":["sent","delivered","running","done","away"]},"payload":"p",
			"result_timeout_s":600}`)
		for _, d := range []string{"delivered", "running", "done"} {
			r.ack(d, 0)
		}
		require.NoError(t, r.result("running", st.ID+"-2", `{"state":"RUNNING"}`))
		require.NoError(t, r.result("done", st.ID+"-3", "ok"))
		want := Counts{Total: 5, Queued: 1, Sent: 1, Delivered: 1, Running: 1, Succeeded: 1}
		require.Equal(t, want, r.status(st.ID).Counts)

		r.crash()
		want.Queued, want.Sent = 2, 0
		require.Equal(t, want, r.status(st.ID).Counts)
		x := r.executions(st.ID)[0]
		require.EqualValues(t, 2, x.Attempt)
		require.Equal(t, "restart", x.Reason)

		r.connect("sent", "away", "delivered")
		r.sleep(time.Second)
		r.ack("sent", 0)
		r.ack("away", 0)
		require.Len(t, r.sentTo("delivered"), 1, "what was acknowledged is not sent again")
		require.NoError(t, r.result("running", st.ID+"-2", "ok"))
		r.sleep(600 * time.Second)
		require.Equal(t, Counts{Total: 5, Succeeded: 2, TimedOut: 3}, r.status(st.ID).Counts)
		r.crash()
		require.Equal(t, Counts{Total: 5, Succeeded: 2, TimedOut: 3}, r.status(st.ID).Counts)
		require.NoError(t, r.result("away", st.ID+"-4", "late"))
		require.Equal(t, Counts{Total: 5, Succeeded: 3, TimedOut: 2}, r.status(st.ID).Counts)
	})
}

func TestBigCommandTellsOnlyCounts(t *testing.T) {
	inBubble(t, func(c *Config) { c.EventDetail = 1 }, func(r *rig) {
		r.connect("a", "b")
		st := r.issue(`{"targets":{"devices":["a","b"]},"payload":1}`)
		r.ack("a", 0)
		r.ack("b", 0)
		r.sleep(time.Second)
		events := r.b.published("admin/commands/" + st.ID + "/events")
		require.Contains(t, events[len(events)-1], `"DELIVERED":2`)
		require.NotContains(t, events[len(events)-1], "executions")
		require.LessOrEqual(t, len(events), 3)
	})
}
