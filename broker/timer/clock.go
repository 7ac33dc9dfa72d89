package timer

import "time"

// clock turns monotonic time into Unix time that follows the system's clock but does not jump with it: timeouts would
// all end at once when somebody sets the clock.
type clock struct{ now time.Duration } // since the epoch

func newClock(unixMilli int64) clock {
	return clock{now: time.Duration(unixMilli) * time.Millisecond}
}

// advance moves the clock by a monotonic time, up to a sixteenth faster or slower if that brings it nearer to wall, the
// Unix milliseconds of the system's clock. It returns Unix milliseconds.
func (c *clock) advance(passed time.Duration, wall int64) int64 {
	slew := passed / 16
	c.now += passed
	c.now += min(max(time.Duration(wall)*time.Millisecond-c.now, -slew), slew)
	return c.now.Milliseconds()
}
