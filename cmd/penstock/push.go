package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstockmq/penstock/internal/client"
)

// exitUnreachable is push's exit code when the node does not answer.
const exitUnreachable = 3

// What --wait waits for.
const (
	waitResult    = "result"
	waitDelivered = "delivered"
)

// pushResultTimeout is how long push --wait gives a device for its result when nothing else is said: a device that
// never answers must not hold up the terminal for ever.
const pushResultTimeout = 5 * time.Minute

// pushFlags are the flags of push.
type pushFlags struct {
	api            apiFlags
	devices        []string
	devicesFile    string
	online         bool
	payload        string
	payloadFile    string
	ttl            time.Duration
	ackTimeout     time.Duration
	resultTimeout  time.Duration
	priority       int
	lane           string
	collapseKey    string
	idempotencyKey string
	wait           string
	timeout        time.Duration
	json           bool
}

const pushHelp = `Issue a command to devices: each gets the payload on devices/{id}/commands/{execution}, now or, if it
is away, when it connects before the command expires. The payload is what --payload or --payload-file
gives, or else standard input; it is sent as it is.

With --wait, push shows how it goes until every device has an outcome. --wait (or --wait=result) waits
for results, which devices publish on devices/{id}/results/{execution}; --wait=delivered waits for their
acknowledgements.

Exit codes: 0  the command was issued; with --wait: every device succeeded (or acknowledged)
            1  the node refused the command; with --wait: some device did not succeed, or --timeout passed
            2  flags or arguments are wrong
            3  the node cannot be reached`

const pushExample = `  penstock push --devices pump-1,pump-2 --payload '{"open":true}' --wait
  penstock push --online --payload 'firmware 1.2 is out'
  penstock push --devices-file all.txt --payload-file config.bin --ttl 1h --wait=delivered`

// newPushCommand is `penstock push`: issue a command, and see what becomes of it.
func newPushCommand() *cobra.Command {
	f := &pushFlags{}
	cmd := &cobra.Command{
		Use: "push", Short: "Send a command to devices, and wait for what they say", Long: pushHelp, Example: pushExample,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.api.add(cmd)
	fs := cmd.Flags()
	fs.StringSliceVar(&f.devices, "devices", nil, "device ids, separated by commas")
	fs.StringVar(&f.devicesFile, "devices-file", "", "file with a device id on each line; - is standard input")
	fs.BoolVar(&f.online, "online", false, "every device that is connected now")
	fs.StringVar(&f.payload, "payload", "", "what the devices get")
	fs.StringVar(&f.payloadFile, "payload-file", "", "file with what the devices get; - is standard input")
	fs.DurationVar(&f.ttl, "ttl", 0, "how long devices that are away can still get it (default: the node's)")
	fs.DurationVar(&f.ackTimeout, "ack-timeout", 0, "when it is sent again without acknowledgement (default: the node's)")
	fs.DurationVar(&f.resultTimeout, "result-timeout", 0,
		"how long a device has from acknowledgement to result (default: the node's; with --wait 5m)")
	fs.IntVar(&f.priority, "priority", 0, "0 to 9; higher goes first among what waits for a device")
	fs.StringVar(&f.lane, "lane", "", "commands of one lane reach a device in order")
	fs.StringVar(&f.collapseKey, "collapse-key", "", "supersedes older commands with this key that were not sent yet")
	fs.StringVar(&f.idempotencyKey, "idempotency-key", "", "the same key and command are issued only once")
	fs.StringVar(&f.wait, "wait", "", "show progress until every device has an outcome: result or delivered")
	fs.Lookup("wait").NoOptDefVal = waitResult
	fs.DurationVar(&f.timeout, "timeout", 0, "longest time to wait (0: no limit)")
	fs.BoolVar(&f.json, "json", false, "print the command's status as JSON")
	return cmd
}

func (f *pushFlags) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	request, err := f.request(cmd)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	c, err := f.api.client()
	if err != nil {
		return err
	}
	st, err := c.Issue(ctx, request, f.idempotencyKey)
	if err != nil {
		return pushFailure(err)
	}
	if f.wait == "" {
		return f.report(cmd, st)
	}
	return f.follow(ctx, cmd, c, st)
}

// pushFailure gives an error its exit code.
func pushFailure(err error) error {
	if errors.Is(err, client.ErrUnreachable) {
		return &exitError{exitUnreachable, err}
	}
	return err
}

// request makes the command that the flags describe.
func (f *pushFlags) request(cmd *cobra.Command) (r client.Request, err error) {
	if err := f.check(cmd); err != nil {
		return r, err
	}
	r = client.Request{
		TTL: f.ttl.Seconds(), AckTimeout: f.ackTimeout.Seconds(), ResultTimeout: f.resultTimeout.Seconds(),
		Priority: f.priority, Lane: f.lane, CollapseKey: f.collapseKey,
	}
	if f.wait == waitResult && f.resultTimeout == 0 {
		r.ResultTimeout = pushResultTimeout.Seconds()
	}
	r.Targets.Online, r.Targets.Devices = f.online, slices.Clone(f.devices)
	if f.devicesFile != "" {
		more, err := readDevices(cmd.InOrStdin(), f.devicesFile)
		if err != nil {
			return r, err
		}
		r.Targets.Devices = append(r.Targets.Devices, more...)
	}
	if !f.online && len(r.Targets.Devices) == 0 {
		return r, errors.New("there is no device: give --devices, --devices-file or --online")
	}
	payload, err := f.readPayload(cmd)
	if err != nil {
		return r, err
	}
	r.PayloadBase64 = &payload
	return r, nil
}

func (f *pushFlags) check(cmd *cobra.Command) error {
	switch {
	case cmd.Flags().Changed("payload") && f.payloadFile != "":
		return errors.New("give only one of --payload and --payload-file")
	case f.online && (len(f.devices) > 0 || f.devicesFile != ""):
		return errors.New("give --online or devices, not both")
	case f.wait != "" && f.wait != waitResult && f.wait != waitDelivered:
		return fmt.Errorf("--wait=%s: use --wait=%s or --wait=%s", f.wait, waitResult, waitDelivered)
	case f.ttl < 0 || f.ackTimeout < 0 || f.resultTimeout < 0 || f.timeout < 0:
		return errors.New("a time must not be negative")
	case f.devicesFile == "-" && !cmd.Flags().Changed("payload") && (f.payloadFile == "" || f.payloadFile == "-"):
		return errors.New("standard input has the devices: give --payload or --payload-file")
	}
	return nil
}

// readDevices reads a device id from each line; empty lines and those that begin with # do not count.
func readDevices(stdin io.Reader, file string) (devices []string, err error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read devices: %w", err)
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if id := strings.TrimSpace(lines.Text()); id != "" && id[0] != '#' {
			devices = append(devices, id)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read devices from %s: %w", file, err)
	}
	return devices, nil
}

// readPayload takes the payload as it is: standard input keeps its last line's end, too.
func (f *pushFlags) readPayload(cmd *cobra.Command) ([]byte, error) {
	in := cmd.InOrStdin()
	switch {
	case cmd.Flags().Changed("payload"):
		return []byte(f.payload), nil
	case f.payloadFile != "" && f.payloadFile != "-":
		payload, err := os.ReadFile(f.payloadFile)
		if err != nil {
			return nil, fmt.Errorf("read payload: %w", err)
		}
		return payload, nil
	}
	if file, ok := in.(*os.File); ok && f.payloadFile == "" && term.IsTerminal(int(file.Fd())) {
		return nil, errors.New("there is no payload: give --payload, --payload-file or standard input")
	}
	payload, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("read payload: %w", err)
	}
	return payload, nil
}

// report prints the status at the end.
func (f *pushFlags) report(cmd *cobra.Command, st client.Status) error {
	out := cmd.OutOrStdout()
	if f.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(st)
	}
	fmt.Fprintf(out, "%s  %s  %s\n", st.ID, st.State, describeCounts(st.Counts))
	return nil
}
