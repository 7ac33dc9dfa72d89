package timer

import "time"

// maxSlew is how far the clock may be off before it jumps after all.
const maxSlew = time.Minute

// clock turns monotonic time into Unix time. It follows the system's clock smoothly through the small steps of time
// synchronisation, or timeouts would end early; when the system's clock was set to another time, it is set too, or what
// is stored and sent to others would bear wrong times for days.
type clock struct{ now time.Duration } // since the epoch

func newClock(unixMilli int64) clock {
	return clock{now: time.Duration(unixMilli) * time.Millisecond}
}

// advance moves the clock by a monotonic time, up to a sixteenth faster or slower if that brings it nearer to wall, the
// Unix milliseconds of the system's clock. It returns Unix milliseconds.
func (c *clock) advance(passed time.Duration, wall int64) int64 {
	target := time.Duration(wall) * time.Millisecond
	slew := passed / 16
	c.now += passed
	switch off := target - c.now; {
	case off.Abs() > maxSlew:
		c.now = target
	default:
		c.now += min(max(off, -slew), slew)
	}
	return c.now.Milliseconds()
}
