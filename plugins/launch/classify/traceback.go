package classify

import (
	"regexp"
	"slices"
	"strings"
)

const header = "Traceback (most recent call last):"

var (
	rankPrefix = regexp.MustCompile(`^\[rank(\d+)\]:? ?`)
	// logLine are lines of loggers, which end an exception's text.
	logLine = regexp.MustCompile(`^([WEIF]\d{4} |\[(INFO|WARNING|ERROR|DEBUG)\||\[\d{4}-\d\d-\d\d |\{'|=====|-----|\d{4}-\d\d-\d\d |/.*Warning: )`)
	chained = regexp.MustCompile(`^(During handling of the above exception|The above exception was the direct cause)`)
	// launcher are the exceptions of processes that only report another's end.
	launcher  = regexp.MustCompile(`ChildFailedError|CalledProcessError|SignalException`)
	rootRank  = regexp.MustCompile(`^\s*rank\s*: (\d+) `)
	rootCause = "Root Cause (first observed failure)"
	harmless  = regexp.MustCompile(`\[(INFO|WARNING)\||^[WI]\d{4} |^\{'|Warning: |^\s*warnings\.warn`)
)

// block is one traceback with those that it came from.
type block struct {
	rank string
	// says are the lines of its exceptions, the frames left out.
	says []string
}

func (b block) text() string { return strings.Join(b.says, "\n") }

type parsed struct {
	// last is the last traceback of each rank, in the order of the log.
	last []block
	root string
	tail string
}

// parse splits a log into tracebacks. Ranks that run under torchrun mark their lines; each is read on its own.
func parse(log []byte) *parsed {
	text := strings.ToValidUTF8(string(log), "\uFFFD")
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	byRank := map[string][]string{}
	var order, tail []string
	p := &parsed{}
	atRoot := false
	for _, line := range strings.Split(text, "\n") {
		rank := ""
		if m := rankPrefix.FindStringSubmatch(line); m != nil {
			rank, line = m[1], line[len(m[0]):]
		}
		if strings.Contains(line, rootCause) {
			atRoot = true
		} else if m := rootRank.FindStringSubmatch(line); m != nil && atRoot {
			p.root, atRoot = m[1], false
		}
		if _, ok := byRank[rank]; !ok {
			order = append(order, rank)
		}
		byRank[rank] = append(byRank[rank], line)
		if strings.TrimSpace(line) != "" && !harmless.MatchString(line) {
			tail = append(tail, line)
		}
	}
	for _, rank := range order {
		if b, ok := lastBlock(byRank[rank]); ok {
			b.rank = rank
			p.last = append(p.last, b)
		}
	}
	p.tail = strings.Join(tail[max(0, len(tail)-60):], "\n")
	return p
}

// lastBlock answers the last traceback that is not a launcher's.
func lastBlock(lines []string) (block, bool) {
	var blocks []block
	for i := 0; i < len(lines); i++ {
		if !strings.HasSuffix(strings.TrimRight(lines[i], " "), header) {
			continue
		}
		says, end := exception(lines, i+1)
		if len(blocks) > 0 && chainedBefore(lines, i) {
			b := &blocks[len(blocks)-1]
			b.says = append(b.says, says...)
		} else {
			blocks = append(blocks, block{says: says})
		}
		i = end - 1
	}
	slices.Reverse(blocks)
	for _, b := range blocks {
		if len(b.says) > 0 && !launcher.MatchString(b.text()) {
			return b, true
		}
	}
	return block{}, false
}

// exception reads over the frames from lines[i] on and answers the lines that say what was raised and where they end.
func exception(lines []string, i int) (says []string, end int) {
	for ; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasSuffix(line, header):
			return says, i
		case strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"):
			if len(says) > 0 && len(says) < 40 {
				says = append(says, strings.TrimSpace(line))
			}
			continue
		case strings.TrimSpace(line) == "" && len(says) > 0:
			return says, i
		case strings.TrimSpace(line) == "":
			continue
		case logLine.MatchString(line):
			return says, i
		}
		if len(says) < 40 {
			says = append(says, line)
		}
	}
	return says, i
}

// chainedBefore looks above a traceback for the sentence that ties it to the one before.
func chainedBefore(lines []string, i int) bool {
	for j := i - 1; j >= 0 && j >= i-3; j-- {
		if chained.MatchString(lines[j]) {
			return true
		}
	}
	return false
}

// candidates are the texts to judge by. The exception of the rank that failed first decides alone when it tells more than
// that its peers were gone; otherwise those of all ranks together; the end of the log only where there is no exception,
// or where a signal ended the process after it.
func (p *parsed) candidates(signalled bool) []string {
	var texts, all []string
	for _, b := range p.last {
		all = append(all, b.text())
		if p.root != "" && b.rank == p.root && !peersGone(b.text()) {
			texts = []string{b.text()}
		}
	}
	if len(texts) == 0 && len(all) > 0 {
		texts = []string{strings.Join(all, "\n")}
	}
	if len(texts) == 0 || signalled {
		texts = append(texts, p.tail)
	}
	return texts
}

// peersGone answers whether a text is explained by another rank's end.
func peersGone(text string) bool {
	v, ok := match(text)
	return ok && (v.Kind == "nccl" || v.Kind == "rendezvous")
}

// lastException is what was raised last, "" when nothing was.
func (p *parsed) lastException() string {
	if len(p.last) == 0 {
		return ""
	}
	b := p.last[len(p.last)-1]
	for _, c := range p.last {
		if p.root != "" && c.rank == p.root {
			b = c
		}
	}
	// The exception's own line is the last that has its shape; what follows are its further lines.
	for i := len(b.says) - 1; i >= 0; i-- {
		if exceptionLine.MatchString(b.says[i]) {
			return clean(b.says[i])
		}
	}
	return clean(b.says[0])
}

var exceptionLine = regexp.MustCompile(`^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|Warning|Failure)?(:|$)`)
