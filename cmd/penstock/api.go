package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	defaultURL = "http://127.0.0.1:8080"
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer  = 64 << 20
	apiTimeout = 30 * time.Second
)

// apiFlags are the flags of subcommands that call a node's admin API.
type apiFlags struct{ url, token string }

func (f *apiFlags) add(cmd *cobra.Command) {
	server := cmp.Or(os.Getenv("PENSTOCK_SERVER"), defaultURL)
	cmd.PersistentFlags().StringVar(&f.url, "server", server, "where the node serves HTTP (environment: PENSTOCK_SERVER)")
	cmd.PersistentFlags().StringVar(&f.token, "token", "",
		"admin token (environment: PENSTOCK_ADMIN_TOKEN; else ./data/admin-token is read)")
}

// client makes the API client that the flags describe.
func (f *apiFlags) client() (*apiClient, error) {
	base, err := url.Parse(f.url)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, &exitError{exitUsage, fmt.Errorf("--server %q is not an http or https URL", f.url)}
	}
	token := cmp.Or(f.token, os.Getenv("PENSTOCK_ADMIN_TOKEN"))
	if token == "" {
		// The folder of a node that was started here with defaults. Without it, the node's 401 says what is missing.
		text, _ := os.ReadFile(filepath.Join("data", "admin-token"))
		token = strings.TrimSpace(string(text))
	}
	return &apiClient{base: strings.TrimSuffix(f.url, "/"), token: token}, nil
}

// apiClient calls the admin API of one node.
type apiClient struct{ base, token string }

// problem is an error answer (RFC 9457).
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors"`
}

func (p *problem) Error() string {
	var b strings.Builder
	b.WriteString(cmp.Or(p.Detail, p.Title, http.StatusText(p.Status)))
	for _, e := range p.Errors {
		b.WriteString("\n  " + e.Location + ": " + e.Message)
	}
	return b.String()
}

// call sends in as JSON, unless it is nil, and reads the answer into out, unless that is nil. An answer of 400 or more
// is a *problem.
func (c *apiClient) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read answer of %s: %w", c.base, err)
	}
	return nil
}

// do is call for answers that the caller reads and closes. It waits as long as ctx lets it.
func (c *apiClient) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var content bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&content).Encode(in); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, &content)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return nil, fmt.Errorf("reach the node at %s: %w (is it running? see --server)", c.base, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	fault := problem{Status: resp.StatusCode}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(text, &fault) != nil {
		fault.Title = resp.Status
	}
	return nil, &fault
}
