package command

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstockmq/penstock/broker"
)

func TestCommandReachesDeviceAndItsResultComesBack(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		st := r.issue(`{"targets":{"devices":["pump"]},"payload":{"open": true},"result_timeout_s":60}`)
		require.Equal(t, StateActive, st.State)
		require.EqualValues(t, 1, st.Counts.Queued)
		r.state(st.ID, Sent)

		s := r.ack("pump", 0)
		require.Equal(t, `{"open":true}`, string(s.m.Payload))
		require.Equal(t, "devices/pump/commands/"+st.ID+"-0", s.m.Topic)
		require.Equal(t, "devices/pump/results/"+st.ID+"-0", s.m.Properties.ResponseTopic)
		require.Equal(t, st.ExpiresAt, s.m.Expires)
		for key, want := range map[string]string{"attempt": "1", "command_id": st.ID} {
			got, _ := s.m.Properties.UserProperty(key)
			require.Equal(t, want, got, key)
		}
		parent, _ := s.m.Properties.UserProperty("traceparent")
		require.True(t, validTraceparent(parent), parent)
		require.Equal(t, st.Traceparent[3:35], parent[3:35], "trace id")
		r.state(st.ID, Delivered)

		require.NoError(t, r.result("pump", st.ID+"-0", `{"state":"RUNNING","progress":40}`))
		require.EqualValues(t, 40, r.state(st.ID, Running).Progress)
		require.NoError(t, r.result("pump", st.ID+"-0", `{"state":"SUCCEEDED","result":{"level":7}}`))
		x := r.state(st.ID, Succeeded)
		require.JSONEq(t, `{"level":7}`, string(x.Result))
		require.Equal(t, StateFinished, r.status(st.ID).State)
		r.sleep(time.Second)
		require.Equal(t, []string{"SENT", "DELIVERED", "RUNNING", "SUCCEEDED"}, r.transitions(st.ID, st.ID+"-0"))
	})
}

func TestOfflineDeviceGetsItOnReconnect(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		st := r.one("pump", `,"ttl_s":3600`)
		r.sleep(10 * time.Minute)
		r.state(st.ID, Queued)
		r.connect("pump")
		r.ack("pump", 0)
		r.state(st.ID, Delivered)
		require.Equal(t, StateFinished, r.status(st.ID).State, "no result is awaited")
	})
}

func TestWithoutSubscriptionItWaitsForOne(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.b.deaf["pump"] = true
		r.connect("pump")
		st := r.one("pump", "")
		r.sleep(time.Minute)
		r.state(st.ID, Queued)
		require.Empty(t, r.sentTo("pump"))
		r.b.mu.Lock()
		r.b.deaf["pump"] = false
		r.b.mu.Unlock()
		r.connect("pump")
		r.state(st.ID, Sent)
	})
}

func TestExpiresWhileOffline(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		st := r.one("pump", `,"ttl_s":5`)
		r.sleep(5*time.Second + time.Millisecond)
		x := r.state(st.ID, Expired)
		require.Equal(t, "expired", x.Reason)
		r.connect("pump")
		require.Empty(t, r.sentTo("pump"))
		require.Empty(t, r.s.shard("pump").devices, "nothing is left of a device without work")
		require.Empty(t, r.s.shard("pump").hot)
	})
}

func TestExpiresBehindOneThatLastsLonger(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.one("pump", `,"ttl_s":3600`)
		r.sleep(time.Second)
		st := r.one("pump", `,"ttl_s":5`)
		r.sleep(5*time.Second + time.Millisecond)
		r.state(st.ID, Expired)
	})
}

func TestAckTimeoutSendsAgainWithPause(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		st := r.one("pump", `,"ack_timeout_s":2`)
		first, _ := r.b.take("pump")
		r.sleep(2*time.Second + time.Millisecond)
		x := r.executions(st.ID)[0]
		require.EqualValues(t, 2, x.Attempt)
		r.sleep(500 * time.Millisecond)
		x = r.state(st.ID, Sent)
		second, ok := r.b.take("pump")
		require.True(t, ok)
		attempt, _ := second.m.Properties.UserProperty("attempt")
		require.Equal(t, "2", attempt)
		require.Equal(t, "ack_timeout", x.Reason)
		first.h.Acked(0) // late, and still true
		synctest.Wait()
		x = r.state(st.ID, Delivered)
		require.Empty(t, x.Reason)
		second.h.Acked(0)
		synctest.Wait()
		r.state(st.ID, Delivered)
	})
}

func TestSilentConnectionCostsFewCopies(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		r.one("pump", `,"ack_timeout_s":1,"ttl_s":7200`)
		r.sleep(time.Hour)
		require.Len(t, r.sentTo("pump"), maxOutstanding)
	})
}

func TestAttemptsAreBounded(t *testing.T) {
	inBubble(t, func(c *Config) { c.Attempts = 2 }, func(r *rig) {
		r.connect("pump")
		st := r.one("pump", `,"ack_timeout_s":1`)
		r.sleep(10 * time.Second)
		x := r.state(st.ID, Undeliverable)
		require.Equal(t, "max_attempts", x.Reason)
		require.Len(t, r.sentTo("pump"), 2)
	})
}

func TestRefusedAcknowledgementIsRejected(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		st := r.one("pump", "")
		r.ack("pump", 0x97)
		x := r.state(st.ID, Rejected)
		require.Equal(t, "puback_0x97", x.Reason)
		require.Zero(t, x.DeliveredAt)
	})
}

func TestBrokerThatGivesUpIsTriedAgain(t *testing.T) {
	inBubble(t, func(c *Config) { c.Attempts = 3 }, func(r *rig) {
		r.b.beforeSent = func(s sent) { s.h.Lost(errors.New("too large")) }
		r.connect("pump")
		st := r.one("pump", "")
		r.sleep(time.Minute)
		x := r.state(st.ID, Undeliverable)
		require.Zero(t, x.SentAt)
		require.Len(t, r.sentTo("pump"), 3)
	})
}

func TestResultTimeoutIsSoft(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		st := r.one("pump", `,"result_timeout_s":10`)
		r.ack("pump", 0)
		r.sleep(10*time.Second + time.Millisecond)
		require.Equal(t, "no_result", r.state(st.ID, TimedOut).Reason)
		require.Equal(t, StateFinished, r.status(st.ID).State)
		require.NoError(t, r.result("pump", st.ID+"-0", `{"state":"RUNNING"}`))
		r.state(st.ID, TimedOut)
		require.NoError(t, r.result("pump", st.ID+"-0", "done"))
		x := r.state(st.ID, Succeeded)
		require.True(t, x.Late)
		require.Equal(t, `"done"`, string(x.Result))
		require.NoError(t, r.result("pump", st.ID+"-0", `{"state":"FAILED"}`))
		r.state(st.ID, Succeeded)
	})
}

func TestRunningEndsWithoutResultTimeout(t *testing.T) {
	inBubble(t, func(c *Config) { c.RunningTimeout = time.Minute }, func(r *rig) {
		r.connect("pump")
		st := r.one("pump", "")
		r.ack("pump", 0)
		require.Equal(t, StateFinished, r.status(st.ID).State)
		require.NoError(t, r.result("pump", st.ID+"-0", `{"state":"RUNNING"}`))
		require.Equal(t, StateActive, r.status(st.ID).State)
		r.sleep(time.Minute + time.Millisecond)
		r.state(st.ID, TimedOut)
		require.Equal(t, StateFinished, r.status(st.ID).State)
	})
}

func TestRaces(t *testing.T) {
	cases := map[string]struct {
		more   string
		events func(r *rig, st Status, s sent)
		want   State
		check  func(t *testing.T, x ExecutionView)
	}{
		"result before acknowledgement": {
			events: func(r *rig, st Status, s sent) {
				require.NoError(r, r.result("pump", st.ID+"-0", "ok"))
				s.h.Acked(0)
			},
			want: Succeeded,
			check: func(t *testing.T, x ExecutionView) {
				require.NotZero(t, x.DeliveredAt)
				require.NotZero(t, x.RunningAt)
			},
		},
		"cancel before acknowledgement": {
			events: func(r *rig, st Status, s sent) {
				_, err := r.s.Cancel(context.Background(), st.ID)
				require.NoError(r, err)
				s.h.Acked(0)
			},
			want:  Canceled,
			check: func(t *testing.T, x ExecutionView) { require.NotZero(t, x.DeliveredAt, "what happened is told") },
		},
		"cancel after acknowledgement": {
			events: func(r *rig, st Status, s sent) {
				s.h.Acked(0)
				_, err := r.s.Cancel(context.Background(), st.ID)
				require.NoError(r, err)
			},
			more: `,"result_timeout_s":60`,
			want: Delivered,
		},
		"expiry before acknowledgement": {
			more: `,"ttl_s":1`,
			events: func(r *rig, _ Status, s sent) {
				r.sleep(1100 * time.Millisecond)
				s.h.Acked(0)
			},
			want: Expired,
		},
		"expiry after acknowledgement": {
			more: `,"ttl_s":1`,
			events: func(r *rig, _ Status, s sent) {
				s.h.Acked(0)
				r.sleep(2 * time.Second)
			},
			want: Delivered,
		},
		"disconnection before acknowledgement": {
			events: func(_ *rig, _ Status, s sent) { s.h.Lost(broker.ErrNotConnected) },
			want:   Queued,
			check: func(t *testing.T, x ExecutionView) {
				require.EqualValues(t, 2, x.Attempt)
				require.Equal(t, "connection_lost", x.Reason)
			},
		},
		"result after cancel": {
			events: func(r *rig, st Status, _ sent) {
				_, err := r.s.Cancel(context.Background(), st.ID)
				require.NoError(r, err)
				require.NoError(r, r.result("pump", st.ID+"-0", `{"state":"FAILED","reason":"jam"}`))
			},
			want: Canceled,
			check: func(t *testing.T, x ExecutionView) {
				require.True(t, x.Late)
				require.Equal(t, "canceled: answered FAILED: jam", x.Reason)
			},
		},
		"result twice": {
			events: func(r *rig, st Status, s sent) {
				s.h.Acked(0)
				require.NoError(r, r.result("pump", st.ID+"-0", `{"state":"FAILED","code":3}`))
				require.NoError(r, r.result("pump", st.ID+"-0", `{"state":"FAILED","code":3}`))
			},
			want:  Failed,
			check: func(t *testing.T, x ExecutionView) { require.EqualValues(t, 3, x.Code) },
		},
		"result of another device": {
			events: func(r *rig, st Status, _ sent) { require.NoError(r, r.result("valve", st.ID+"-0", "ok")) },
			want:   Sent,
		},
		"result of an unknown round": {
			events: func(r *rig, st Status, _ sent) { require.NoError(r, r.result("pump", st.ID+"-0.1", "ok")) },
			want:   Sent,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(r *rig) {
				r.connect("pump")
				st := r.one("pump", c.more)
				s, ok := r.b.take("pump")
				require.True(t, ok)
				r.b.mu.Lock()
				delete(r.b.online, "pump") // so that nothing is sent again
				r.b.mu.Unlock()
				c.events(r, st, s)
				synctest.Wait()
				x := r.state(st.ID, c.want)
				if c.check != nil {
					c.check(t, x)
				}
			})
		})
	}
}

func TestResultBeforeTheBrokerSaysSent(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.b.beforeSent = func(sent) {}
		r.connect("pump")
		st := r.one("pump", "")
		s, _ := r.b.take("pump")
		r.state(st.ID, Queued)
		require.NoError(t, r.result("pump", st.ID+"-0", "ok"))
		s.h.Sent()
		s.h.Acked(0)
		synctest.Wait()
		r.state(st.ID, Succeeded)
		require.Empty(t, r.s.shard("pump").devices)
	})
}

func TestStoreThatFailsIsTriedAgain(t *testing.T) {
	inBubble(t, nil, func(r *rig) {
		r.connect("pump")
		st := r.one("pump", "")
		r.store.failWith(errors.New("disk full"))
		_, err := r.s.Issue(context.Background(), Input{Body: []byte(`{"id":"x","targets":{"devices":["d"]},"payload":1}`)})
		var p *Problem
		require.ErrorAs(t, err, &p)
		require.Equal(t, 503, p.Status)
		s := r.ack("pump", 0)
		r.state(st.ID, Sent)
		var answers []error
		r.s.Accept(&broker.Message{Topic: s.m.Properties.ResponseTopic, Payload: []byte("ok")},
			func(err error) { answers = append(answers, err) })
		r.sleep(2 * time.Second)
		require.Len(t, answers, 1)
		require.Error(t, answers[0], "the device is not told that its result is safe")
		r.state(st.ID, Sent)
		r.store.failWith(nil)
		r.sleep(2 * time.Second)
		r.state(st.ID, Succeeded)
		r.issue(`{"id":"x","targets":{"devices":["d"]},"payload":1}`)
	})
}
