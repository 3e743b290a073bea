// Package gres knows a node's GPUs: those that the administrator declared, or those that fettle-nvml finds.
//
// The NVIDIA driver can hang for good, end the process that asks it, or lose a card, so the node daemon never asks it itself.
// NVML runs fettle-nvml as a child, waits for every answer with a deadline, kills what is late, and leaves behind what
// cannot be killed; it keeps a book of every card it has seen, under an index that stays, and says of each why it should
// not be given to a job: errors that the driver numbered (Xid), a card that vanished, a driver that does not answer.
//
// The package reports. It frees nothing and ends nothing: who holds a card that has become unhealthy keeps it.
package gres
