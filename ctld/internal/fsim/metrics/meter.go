package metrics

// Bins is how many slices a Meter's series cut the window into.
const Bins = 240

// Meter integrates what holds between the events of a simulation over the window of arrivals, from the first submit to the
// last. Times are in seconds and never go back.
type Meter struct {
	from, to int64
	total    int
	now      int64
	level    Level
	// sums are in GPU-seconds, but for queued in job-seconds.
	used, frag, idleQueued float64
	binUsed, binQueued     [Bins]float64
	maxQueue               int
}

// Level is what holds from one event to the next.
type Level struct {
	// Used GPUs, and Frag free ones on nodes that are partly used.
	Used, Frag int
	// Queued jobs.
	Queued int
}

// NewMeter starts at the beginning of the window [fromS, toS] of a cluster of so many GPUs, idle.
func NewMeter(fromS, toS int64, gpus int) *Meter {
	return &Meter{from: fromS, to: toS, total: gpus, now: fromS}
}

// Set says what holds from now on.
func (m *Meter) Set(nowS int64, l Level) {
	m.advance(nowS)
	m.level = l
	m.maxQueue = max(m.maxQueue, l.Queued)
}

func (m *Meter) advance(now int64) {
	from, to := max(m.now, m.from), min(now, m.to)
	m.now = max(m.now, now)
	if to <= from {
		return
	}
	d := float64(to - from)
	m.used += d * float64(m.level.Used)
	m.frag += d * float64(m.level.Frag)
	if m.level.Queued > 0 {
		m.idleQueued += d * float64(m.total-m.level.Used)
	}
	width := float64(m.to-m.from) / Bins
	lo, hi := float64(from-m.from)/width, float64(to-m.from)/width
	for b := int(lo); b < Bins && float64(b) < hi; b++ {
		part := width * (min(hi, float64(b+1)) - max(lo, float64(b)))
		m.binUsed[b] += part * float64(m.level.Used)
		m.binQueued[b] += part * float64(m.level.Queued)
	}
}

// shares answers the averages over the window as shares of all GPUs.
func (m *Meter) shares() (used, frag, idleQueued float64) {
	m.advance(m.to)
	all := float64(m.to-m.from) * float64(m.total)
	if all == 0 {
		return 0, 0, 0
	}
	return m.used / all, m.frag / all, m.idleQueued / all
}

// series answers the shares of used GPUs and the queued jobs, bin by bin.
func (m *Meter) series() (used, queued []float64) {
	m.advance(m.to)
	used, queued = make([]float64, Bins), make([]float64, Bins)
	width := float64(m.to-m.from) / Bins
	if width == 0 {
		return used, queued
	}
	for b := range Bins {
		used[b] = m.binUsed[b] / (width * float64(max(m.total, 1)))
		queued[b] = m.binQueued[b] / width
	}
	return used, queued
}
