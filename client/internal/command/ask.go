package command

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
)

// ask puts a question to the person at the terminal. Only "y" and "yes" count as yes; everything else, also the end of
// input, as no. Yes is nil; no is said again in words and ends the command with status 1.
func (c *call) ask(ctx context.Context, question string) error {
	if _, err := io.WriteString(c.env.Stderr, question+" [y/N] "); err != nil {
		return err
	}
	type answer struct {
		line string
		err  error
	}
	// Reading a terminal cannot be broken off; when the command is interrupted, the process ends with the reader in it.
	got := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(c.env.Stdin).ReadString('\n')
		got <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return &silent{exitInterrupted}
	case a := <-got:
		if a.err != nil && !errors.Is(a.err, io.EOF) {
			return a.err
		}
		switch strings.ToLower(strings.TrimSpace(a.line)) {
		case "y", "yes":
			return nil
		}
		_, _ = io.WriteString(c.env.Stderr, "Nothing was done.\n")
		return &silent{exitFailed}
	}
}
