// Reads a Corefile on standard input as CoreDNS does, and writes what it read as JSON.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/coredns/caddy/caddyfile"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		text, err = caddyfile.ToJSON(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(text)
}
