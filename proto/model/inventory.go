package model

import (
	"strconv"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// ValidateNode checks what a node says of itself when it connects. name must be in gres.NodeName's plain form.
func ValidateNode(name, bootID string, inv *fettlev1.Inventory) *FieldError {
	plain, err := gres.NodeName(name)
	if err != nil {
		return fromGres("node", err)
	}
	if plain != name {
		return invalid("node", quote(name)+" is not in its plain form", "use "+plain)
	}
	if bootID == "" || len(bootID) > MaxName {
		return invalid("boot_id", "is empty or longer than "+strconv.Itoa(MaxName)+" bytes", "send the kernel's boot id")
	}
	return ValidateInventory(inv)
}

// ValidateInventory checks what a node says it has.
func ValidateInventory(inv *fettlev1.Inventory) *FieldError {
	switch {
	case inv == nil:
		return invalid("inventory", "is missing", "send one")
	case inv.GetCpus() == 0 || inv.GetCpus() > MaxCPUsPerNode:
		return invalid("inventory.cpus", "is out of range", "use 1 to "+strconv.Itoa(MaxCPUsPerNode))
	case inv.GetMemoryMib() < 0 || inv.GetMemoryMib() > MaxMemMiBPerNode:
		return invalid("inventory.memory", "is out of range", "use at most 64 TiB")
	case len(inv.GetGpus()) > MaxGPUsPerNode:
		return invalid("inventory.gpus", "more than "+strconv.Itoa(MaxGPUsPerNode), "declare fewer")
	case proto.Size(inv) > MaxInventoryBytes:
		return invalid("inventory", "is larger than "+strconv.Itoa(MaxInventoryBytes)+" bytes", "shorten its texts")
	}
	if err := checkFeatures(inv); err != nil {
		return err
	}
	uuids := make(map[string]bool, len(inv.GetGpus()))
	indexes := make(map[uint32]bool, len(inv.GetGpus()))
	for _, g := range inv.GetGpus() {
		if err := checkUUID("inventory.gpus", g.GetUuid()); err != nil {
			return err
		}
		if uuids[g.GetUuid()] {
			return invalid("inventory.gpus", quote(g.GetUuid())+" is listed twice", "list each GPU once")
		}
		if indexes[g.GetIndex()] {
			return invalid("inventory.gpus", "index "+strconv.FormatUint(uint64(g.GetIndex()), 10)+" is listed twice", "give each GPU its own index")
		}
		uuids[g.GetUuid()], indexes[g.GetIndex()] = true, true
		if g.GetMemoryMib() < 0 {
			return invalid("inventory.gpus", quote(g.GetUuid())+" has negative memory", "send what the driver says")
		}
		if err := checkWord("inventory.gpus", g.GetType(), gres.MaxTypeLen); err != nil {
			return err
		}
	}
	return nil
}

// checkFeatures checks the words that constraints refer to, and the switch.
func checkFeatures(inv *fettlev1.Inventory) *FieldError {
	if len(inv.GetFeatures()) > MaxFeatures {
		return invalid("inventory.features", "more than "+strconv.Itoa(MaxFeatures), "declare fewer")
	}
	seen := make(map[string]bool, len(inv.GetFeatures()))
	for _, f := range inv.GetFeatures() {
		plain, err := gres.ParseFeature(f)
		switch {
		case err != nil:
			return fromGres("inventory.features", err)
		case plain != f:
			return invalid("inventory.features", quote(f)+" is not in its plain form", "use "+plain)
		case seen[f]:
			return invalid("inventory.features", quote(f)+" is listed twice", "list each once")
		}
		seen[f] = true
	}
	return checkText("inventory.switch_name", inv.GetSwitchName(), MaxName)
}
