package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstockmq/penstock/internal/client"
)

const defaultServer = "http://127.0.0.1:8080"

// apiFlags are the flags of subcommands that call a node.
type apiFlags struct{ server, token string }

func (f *apiFlags) add(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&f.server, "server", cmp.Or(os.Getenv("PENSTOCK_SERVER"), defaultServer),
		"where the node serves HTTP (environment: PENSTOCK_SERVER)")
	cmd.PersistentFlags().StringVar(&f.token, "token", "",
		"admin token (environment: PENSTOCK_ADMIN_TOKEN; else ./data/admin-token is read)")
}

// client makes the client that the flags describe.
func (f *apiFlags) client() (*client.Client, error) {
	token := cmp.Or(f.token, os.Getenv("PENSTOCK_ADMIN_TOKEN"))
	if token == "" {
		// The folder of a node that was started here with defaults. Without it, the node's 401 says what is missing.
		text, _ := os.ReadFile(filepath.Join("data", "admin-token"))
		token = strings.TrimSpace(string(text))
	}
	c, err := client.New(f.server, token)
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--server: %w", err)}
	}
	return c, nil
}
