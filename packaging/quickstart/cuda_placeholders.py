#!/usr/bin/env python3
"""Let the CUDA build of torch load on a machine that has no NVIDIA GPU.

The torch wheel for Linux is linked against some two gigabytes of CUDA libraries (cuBLAS, cuDNN, NCCL and others).
The dynamic loader wants them and every function of them that torch names to exist, even when nothing of them is ever
called, which is so on a machine without a GPU. This program reads which libraries the installed torch asks for and
does not find, and writes a small shared object for each into torch's own library folder. In it every function answers
"failed" and every function that names an error answers with one line that says what it is, so a call by mistake ends
in an error and never in a wrong result. The few that torch really calls while it is imported (the CUDA runtime, CUPTI,
cuFile) are not replaced: they are small, and are installed for real.

Do not run this where a GPU shall be used: install the full set there.

usage: cuda_placeholders.py SITE_PACKAGES
"""

import os
import re
import struct
import sys

# Libraries of the CUDA family. Anything else that is missing is a real fault, which the loader shall report.
FAMILY = re.compile(r"^lib(cu[a-zA-Z]+|nccl|nvshmem_host)\.so(\.\d+)*$")

# torch calls these while it is being imported, so a placeholder would not do.
CALLED_AT_IMPORT = ("libcudart.so", "libcupti.so", "libcufile.so")

# The driver's own library: never asked for without a GPU, and a placeholder would look like a driver.
NEVER = ("libcuda.so",)

# What a function that answers with a text says. Its name tells that it does.
MESSAGE = b"placeholder: this environment was set up for a machine without an NVIDIA GPU\0"
SAYS_TEXT = re.compile(r"String|ErrorName")

# By machine: code that answers 1, and code that answers with the address right after its own end.
CODE = {
    62: (bytes.fromhex("b801000000c3"), bytes.fromhex("488d0501000000c3")),  # x86-64
    183: (bytes.fromhex("20008052c0035fd6"), bytes.fromhex("40000010c0035fd6")),  # AArch64
}

PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
READ, WRITE, EXECUTE = 4, 2, 1
DT_NULL, DT_NEEDED, DT_PLTRELSZ, DT_HASH, DT_STRTAB, DT_SYMTAB = 0, 1, 2, 4, 5, 6
DT_RELA, DT_RELASZ, DT_STRSZ, DT_SYMENT, DT_SONAME, DT_JMPREL = 7, 8, 10, 11, 14, 23
DT_VERSYM, DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
PAGE = 0x10000  # the largest page in use on either machine


class Library:
    """What one 64-bit little-endian shared object asks of others: library names and names of functions or data."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.header = f.read(64)
            if self.header[:6] != b"\x7fELF\x02\x01":
                raise ValueError(f"{path}: not a 64-bit little-endian ELF file")
            self.machine, self.flags = struct.unpack_from("<H", self.header, 18)[0], struct.unpack_from("<I", self.header, 48)[0]
            self._file = f
            self._read_segments()
            self._read_dynamic()
            self.undefined = self._read_undefined()
            del self._file

    def _read(self, offset, size):
        self._file.seek(offset)
        return self._file.read(size)

    def _read_segments(self):
        start = struct.unpack_from("<Q", self.header, 32)[0]
        size, count = struct.unpack_from("<HH", self.header, 54)
        self.segments, self.dynamic = [], b""
        for i in range(count):
            kind, _, offset, address, _, length, _, _ = struct.unpack("<IIQQQQQQ", self._read(start + i * size, 56))
            if kind == PT_LOAD:
                self.segments.append((address, offset, length))
            elif kind == PT_DYNAMIC:
                self.dynamic = self._read(offset, length)

    def _offset(self, address):
        for start, offset, length in self.segments:
            if start <= address < start + length:
                return address - start + offset
        raise ValueError(f"address {address:#x} lies in no segment")

    def _read_dynamic(self):
        self.tags, needed = {}, []
        for tag, value in struct.iter_unpack("<QQ", self.dynamic):
            if tag == DT_NULL:
                break
            if tag == DT_NEEDED:
                needed.append(value)
            else:
                self.tags[tag] = value
        self.strings = self._read(self._offset(self.tags[DT_STRTAB]), self.tags[DT_STRSZ])
        self.needed = [self._string(at) for at in needed]

    def _string(self, at):
        return self.strings[at : self.strings.index(b"\0", at)].decode()

    def _read_versions(self):
        """Version names by the number that DT_VERSYM gives a symbol."""
        versions = {}
        at = self._offset(self.tags[DT_VERNEED]) if DT_VERNEED in self.tags else 0
        for _ in range(self.tags.get(DT_VERNEEDNUM, 0)):
            _, count, _, first, following = struct.unpack("<HHIII", self._read(at, 16))
            entry = at + first
            for _ in range(count):
                _, _, number, name, step = struct.unpack("<IHHII", self._read(entry, 16))
                versions[number] = self._string(name)
                entry += step
            at += following
        return versions

    def _read_undefined(self):
        """Names that relocations of this library refer to and that it leaves to others, each with its version or ""."""
        indexes = set()
        for table, length in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            if table in self.tags:
                entries = self._read(self._offset(self.tags[table]), self.tags[length])
                indexes.update(info >> 32 for _, info, _ in struct.iter_unpack("<QQq", entries))
        versions = self._read_versions()
        symbols, names = self._offset(self.tags[DT_SYMTAB]), {}
        for index in indexes - {0}:
            name, _, _, section = struct.unpack("<IBBH", self._read(symbols + 24 * index, 8))
            if section == 0:
                number = 0
                if versions:
                    number = struct.unpack("<H", self._read(self._offset(self.tags[DT_VERSYM] + 2 * index), 2))[0]
                names[self._string(name)] = versions.get(number & 0x7FFF, "")
        return names


def version_hash(name):
    """The hash that the ELF format prescribes for names of versions."""
    h = 0
    for c in name.encode():
        h = (h << 4) + c
        h = (h ^ (h & 0xF0000000) >> 24) & 0x0FFFFFFF
    return h


def align(at):
    return (at + 15) & ~15


def placeholder(like, soname, functions):
    """Bytes of a shared object called soname, for the machine of the Library like.

    functions holds the names that it defines, each with its version or "".
    """
    names = sorted(functions)
    versions = sorted({v for v in functions.values() if v})
    number = {"": 1, **{v: i for i, v in enumerate(versions, 2)}}
    fails, says = CODE[like.machine]
    strings, string_at = b"\0", {}
    for name in dict.fromkeys([soname, *versions, *names]):
        string_at[name] = len(strings)
        strings += name.encode() + b"\0"

    # A hash table of one bucket: a chain through all symbols. The loader walks it once for each name, which is quick.
    chain = [0, *(i + 1 if i < len(names) else 0 for i in range(1, len(names) + 1))]
    table = struct.pack(f"<{3 + len(chain)}I", 1, len(chain), 1 if names else 0, *chain)
    numbers = struct.pack(f"<{1 + len(names)}H", 0, *(number[functions[n]] for n in names))
    definitions = b""
    for i, version in enumerate([soname, *versions], 1):  # the first one names the library itself
        following = 28 if i <= len(versions) else 0
        definitions += struct.pack("<HHHHIII", 1, i == 1, i, 1, version_hash(version), 20, following)
        definitions += struct.pack("<II", string_at[version], 0)

    # One segment with headers, tables, names and code; one with the dynamic section, which older loaders write to. The
    # second lies at its offset in the file plus one page, so that both map from the same page of the file.
    hash_at = align(64 + 4 * 56)
    numbers_at = align(hash_at + len(table))
    definitions_at = align(numbers_at + len(numbers))
    symbols_at = align(definitions_at + len(definitions))
    strings_at = align(symbols_at + 24 * (1 + len(names)))
    fails_at = align(strings_at + len(strings))
    says_at = align(fails_at + len(fails))
    dynamic_at = align(says_at + len(says) + len(MESSAGE))

    symbols = bytes(24)
    for name in names:
        address = says_at if SAYS_TEXT.search(name) else fails_at
        symbols += struct.pack("<IBBHQQ", string_at[name], 0x12, 0, 1, address, 8)  # a global function
    dynamic = b"".join(
        struct.pack("<QQ", tag, value)
        for tag, value in [
            (DT_SONAME, string_at[soname]),
            (DT_HASH, hash_at),
            (DT_STRTAB, strings_at),
            (DT_SYMTAB, symbols_at),
            (DT_STRSZ, len(strings)),
            (DT_SYMENT, 24),
            (DT_VERSYM, numbers_at),
            (DT_VERDEF, definitions_at),
            (DT_VERDEFNUM, 1 + len(versions)),
            (DT_NULL, 0),
        ]
    )
    header = like.header[:16] + struct.pack("<HHIQQQIHHHHHH", 3, like.machine, 1, 0, 64, 0, like.flags, 64, 56, 4, 64, 0, 0)
    where = dynamic_at + PAGE
    segments = [
        (PT_LOAD, READ | EXECUTE, 0, 0, 0, dynamic_at, dynamic_at, PAGE),
        (PT_LOAD, READ | WRITE, dynamic_at, where, where, len(dynamic), len(dynamic), PAGE),
        (PT_DYNAMIC, READ | WRITE, dynamic_at, where, where, len(dynamic), len(dynamic), 8),
        (PT_GNU_STACK, READ | WRITE, 0, 0, 0, 0, 0, 16),
    ]
    out = bytearray(dynamic_at + len(dynamic))
    for at, part in [
        (0, header + b"".join(struct.pack("<IIQQQQQQ", *s) for s in segments)),
        (hash_at, table),
        (numbers_at, numbers),
        (definitions_at, definitions),
        (symbols_at, symbols),
        (strings_at, strings),
        (fails_at, fails),
        (says_at, says + MESSAGE),
        (dynamic_at, dynamic),
    ]:
        out[at : at + len(part)] = part
    return bytes(out)


def main(site):
    lib = os.path.join(site, "torch", "lib")
    if not os.path.isdir(lib):
        sys.exit(f"cuda_placeholders: {lib} is not there: install torch first")
    there = set(os.listdir(lib))
    for folder, _, files in os.walk(os.path.join(site, "nvidia")):
        there.update(files)

    libraries = [Library(os.path.join(lib, f)) for f in sorted(there) if os.path.isfile(os.path.join(lib, f)) and f.endswith(".so")]
    if libraries and libraries[0].machine not in CODE:
        sys.exit(f"cuda_placeholders: machine {libraries[0].machine} is not known: set FETTLE_TORCH=cuda to install the full set")
    missing = {n for e in libraries for n in e.needed if FAMILY.match(n)} - there
    missing = {n for n in missing if not n.startswith(NEVER)}
    undefined = {}
    for e in libraries:
        undefined.update(e.undefined)
    for name in sorted(missing):
        if name.startswith(CALLED_AT_IMPORT):
            sys.exit(f"cuda_placeholders: {name} cannot be replaced and is missing: install the package that has it")
        stem = re.match(r"lib([a-z]+)", name).group(1)
        path = os.path.join(lib, name)
        with open(path + ".tmp", "wb") as f:
            f.write(placeholder(libraries[0], name, {s: v for s, v in undefined.items() if s.startswith(stem)}))
        os.chmod(path + ".tmp", 0o755)
        os.replace(path + ".tmp", path)
    print(f"{len(missing)} placeholders for CUDA libraries that are of no use without a GPU")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: cuda_placeholders.py SITE_PACKAGES")
    main(sys.argv[1])
