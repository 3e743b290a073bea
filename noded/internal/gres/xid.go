package gres

import (
	"fmt"
	"time"
)

// XIDClass is what an error that the driver numbers means for the card.
type XIDClass int

// Classes of Xid. Only the last three speak against the card.
const (
	// XIDUnknown is a number that is not in the table: reported, nothing more.
	XIDUnknown XIDClass = iota
	// XIDIgnore is a note, a correction, or the echo of another error.
	XIDIgnore
	// XIDJob ends the job that caused or met it. However often it comes, the card stays in use: a user's broken kernel must
	// not drain one.
	XIDJob
	// XIDRepeat speaks against the card when it comes again.
	XIDRepeat
	// XIDCard speaks against the card until it was reset.
	XIDCard
	// XIDNode speaks against the card until the machine was restarted.
	XIDNode
)

const (
	// burst is how long errors that come together count as one: one broken link is reported by each of its lanes.
	burst = time.Minute
	// repeatWithin is how soon an error of class XIDRepeat must come again to count as repeated.
	repeatWithin = time.Hour
)

type xid struct {
	class XIDClass
	text  string
}

// xids are the numbers of NVIDIA's catalogue that fettle acts on or passes over knowingly.
var xids = map[uint32]xid{
	8:  {XIDJob, "the GPU stopped working on a program"},
	11: {XIDJob, "a program sent commands that are not valid"},
	13: {XIDJob, "a program made the graphics engine fault"},
	31: {XIDJob, "a program touched memory that is not mapped"},
	32: {XIDJob, "a program's command buffer is damaged"},
	68: {XIDJob, "the video decoder faulted"},
	69: {XIDJob, "a program made the graphics engine refuse its class"},
	80: {XIDJob, "damaged data reached the GPU"},
	94: {XIDJob, "a memory error was contained to one program"},

	38:  {XIDIgnore, "firmware error in the driver"},
	43:  {XIDIgnore, "the GPU stopped a program"},
	44:  {XIDIgnore, "the graphics engine faulted at a context switch"},
	45:  {XIDIgnore, "clean-up after another error"},
	63:  {XIDIgnore, "broken memory was replaced by spare memory"},
	92:  {XIDIgnore, "many memory errors were corrected"},
	121: {XIDIgnore, "an error on the link to the CPU was corrected"},
	137: {XIDIgnore, "an access over NVLink was not allowed"},

	74:  {XIDRepeat, "NVLink error"},
	144: {XIDRepeat, "NVLink error in the send path"},
	145: {XIDRepeat, "NVLink error in the receive path"},
	149: {XIDRepeat, "NVLink error in the network port"},

	46:  {XIDCard, "the GPU stopped working"},
	48:  {XIDCard, "a memory error could not be corrected"},
	62:  {XIDCard, "a controller on the GPU halted"},
	64:  {XIDCard, "broken memory could not be replaced by spare memory"},
	95:  {XIDCard, "a memory error was not contained"},
	109: {XIDCard, "a context switch did not end"},
	110: {XIDCard, "security fault"},
	119: {XIDCard, "the GPU's system processor does not answer"},
	120: {XIDCard, "the GPU's system processor failed"},
	136: {XIDCard, "an NVLink could not be trained"},
	140: {XIDCard, "memory errors could not be recovered from"},
	143: {XIDCard, "the GPU could not be initialised"},
	155: {XIDCard, "NVLink failed in software"},
	156: {XIDCard, "a part of the GPU was retired"},
	158: {XIDCard, "the GPU timed out for good"},

	79: {XIDNode, "the GPU fell off the bus"},
}

// ClassifyXID tells what an Xid means for the card.
func ClassifyXID(number uint32) XIDClass { return xids[number].class }

// XIDText says in a few words what an Xid is; empty for one that is not in the table.
func XIDText(number uint32) string { return xids[number].text }

// verdict is what the Xids of one card amount to.
type verdict struct {
	// detail is why the card must not be given away; empty for nothing.
	detail string
	// first is when errors of class XIDRepeat were first seen, of those that still count.
	first time.Time
}

// hear takes an Xid into account. The first one that speaks against the card is the one that is shown.
func (v *verdict) hear(number uint32, now time.Time) {
	remedy := ""
	switch ClassifyXID(number) {
	case XIDRepeat:
		since := now.Sub(v.first)
		if v.first.IsZero() || since > repeatWithin || since < 0 {
			v.first = now
			return
		}
		if since <= burst {
			return
		}
		remedy = "again; check the links, reset the card, then restart fettle-noded"
	case XIDCard:
		remedy = "reset the card, then restart fettle-noded"
	case XIDNode:
		remedy = "restart the machine"
	default:
		return
	}
	if v.detail == "" {
		v.detail = fmt.Sprintf("Xid %d at %s: %s: %s", number, now.UTC().Format(time.RFC3339), XIDText(number), remedy)
	}
}
