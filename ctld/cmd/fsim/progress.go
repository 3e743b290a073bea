package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Width of the bar, and how often it is drawn.
const (
	barWidth = 30
	barEvery = 100 * time.Millisecond
)

// bar is a progress bar on a terminal; elsewhere it shows nothing.
type bar struct {
	w     io.Writer
	mu    sync.Mutex
	began time.Time
	next  time.Time
	drawn bool
	most  int64
}

func newBar(w io.Writer, quiet bool) *bar {
	f, ok := w.(*os.File)
	if quiet || !ok || !term.IsTerminal(int(f.Fd())) {
		return &bar{}
	}
	return &bar{w: w, began: time.Now()}
}

// show draws how far it is, now and then.
func (b *bar) show(done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.w == nil || total == 0 || now.Before(b.next) {
		return
	}
	b.next = now.Add(barEvery)
	b.most = max(b.most, done)
	part := float64(b.most) / float64(total)
	full := int(part * barWidth)
	left := ""
	if spent := now.Sub(b.began); part > 0.02 && part < 1 {
		left = fmt.Sprintf(", %s left", time.Duration(float64(spent)*(1-part)/part).Round(time.Second))
	}
	fmt.Fprintf(b.w, "\r\033[K%s%s %3.0f %%  %d of %d jobs%s", strings.Repeat("█", full), strings.Repeat("░", barWidth-full), 100*part, b.most, total, left)
	b.drawn = true
}

// end takes the bar away.
func (b *bar) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drawn {
		fmt.Fprint(b.w, "\r\033[K")
	}
}
