//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of times in /proc/PID/stat. Linux tells programs 100 a second on every architecture.
const clockTick = time.Second / 100

// SampleProcess reads what a process has used so far, over all its threads. CPU time counts in steps of 10 ms.
func SampleProcess(pid int) (ProcessSample, error) {
	sample := ProcessSample{PID: pid}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return sample, fmt.Errorf("process %d: %w", pid, err)
	}
	// The second field is the program's name in brackets, which may hold spaces and brackets.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 22 {
		return sample, fmt.Errorf("process %d: stat is too short", pid)
	}
	number := func(field int) int64 {
		n, parseErr := strconv.ParseInt(string(fields[field-3]), 10, 64)
		if parseErr != nil {
			err = fmt.Errorf("process %d: stat field %d: %w", pid, field, parseErr)
		}
		return n
	}
	sample.User = time.Duration(number(14)) * clockTick
	sample.System = time.Duration(number(15)) * clockTick
	sample.RSS = number(24) * int64(os.Getpagesize())
	sample.readRollup()
	return sample, err
}

// readRollup replaces the resident size by the exact one and adds the proportional one. Only the owner of the process
// may read them; without, the size in stat stands.
func (s *ProcessSample) readRollup() {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.PID))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(rollup)) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "Rss:":
			s.RSS = kilobytes << 10
		case "Pss:":
			s.PSS = kilobytes << 10
		}
	}
}

// machineCPU is the CPU time that all programs of the machine have used.
func machineCPU() time.Duration {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	var ticks int64
	for i, field := range fields {
		// user, nice, system, irq and softirq (proc_stat(5)); 4 and 5 are idle, and guests count within user.
		if i == 0 || i == 4 || i == 5 || i > 7 {
			continue
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick
}

// ownCPU is the CPU time that this process has used.
func ownCPU() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// precise lets the calling goroutine sleep to the microsecond. The function that it returns takes that back.
func precise() func() {
	runtime.LockOSThread()
	// Where the kernel refuses, sleeps are up to 50 µs longer, and SendLag shows it.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
		runtime.UnlockOSThread()
	}
}

// nap sleeps in the kernel: time.Sleep would hand the loop to another thread and back.
func nap(d time.Duration) {
	until := unix.NsecToTimespec(int64(d))
	// A signal ends it early, which does no harm.
	_ = unix.Nanosleep(&until, nil)
}

// apart keeps an interrupt at the terminal from a broker: it is for the comparison, which ends its brokers in order. A
// broker ends with its comparison also when that is killed.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
