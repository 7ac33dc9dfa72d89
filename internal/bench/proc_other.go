//go:build !linux

package bench

import (
	"errors"
	"syscall"
	"time"
)

// SampleProcess needs the /proc of Linux.
func SampleProcess(int) (ProcessSample, error) {
	return ProcessSample{}, errors.New("the use of a process can be read on Linux only")
}

func machineCPU() time.Duration { return 0 }

func ownCPU() time.Duration { return 0 }

func precise() func() { return func() {} }

func nap(d time.Duration) { time.Sleep(d) }

func apart() *syscall.SysProcAttr { return nil }
