import Foundation
import Testing

/// What a program finds in /proc about itself and the machine.
@Suite(.serialized)
struct ProcTests {
    @Test func processesAreTheProgramsOwn() throws {
        try Rack.with { rack in
            let script = """
                import os, subprocess
                child = subprocess.Popen(['sleep', '100'])
                numbers = sorted(int(n) for n in os.listdir('/proc') if n.isdigit())
                print(numbers == sorted([os.getpid(), child.pid]), [open(f'/proc/{n}/comm').read() for n in numbers])
                print(os.readlink('/proc/self/exe') == os.path.realpath('/usr/bin/python3'))
                print(subprocess.check_output(['ps', '-e', '-o', 'comm='], text=True).split())
                child.kill()
                """
            let result = try rack.run([], ["/usr/bin/python3", "-c", script])
            #expect(
                result.text == "True ['python3\\n', 'sleep\\n']\nTrue\n['python3', 'sleep', 'ps']\n",
                "\(result.text)\(result.errors)")
        }
    }

    /// Address, rights, offset and name of each private file mapping, with the kernel's own view as the measure: the
    /// file at that offset is what is mapped.
    @Test func mapsNameTheFiles() throws {
        let script = """
            import ctypes, mmap, os, re
            own = open('/tmp/own', 'wb+'); own.write(b'a' * 4096 + b'b' * 8192); own.flush()
            area = mmap.mmap(own.fileno(), 8192, mmap.MAP_PRIVATE, offset=4096); area[0] = ord('c')
            names, checked = set(), 0
            for line in open('/proc/self/maps'):
                m = re.match(r'([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) \\S+ (\\d+) *(.*)', line)
                start, end, rights, offset, name = int(m[1], 16), int(m[2], 16), m[3], int(m[4], 16), m[6]
                if not name.startswith('/') or rights[3] != 'p': continue
                names.add(os.path.basename(name))
                if rights == 'r-xp':
                    text = ctypes.string_at(start, 4096)
                    with open(name, 'rb') as file:
                        file.seek(offset)
                        checked += file.read(4096).ljust(4096, b'\\0') == text
            python = os.path.basename(os.path.realpath('/usr/bin/python3'))
            print(python in names, 'libc.so.6' in names, 'own' in names, checked >= 4)
            own = [l.split()[5] for l in open('/proc/self/maps') if l.split()[-1] == '/tmp/own']
            print(own, chr(area[0]), chr(area[4096]))
            """
        try Rack.with { rack in
            let result = try rack.run([], ["/usr/bin/python3", "-c", script])
            #expect(result.text == "True True True True\n['/tmp/own'] c b\n", "\(result.text)\(result.errors)")
            let forked = """
                import os
                if os.fork() == 0: print('libc' in open('/proc/self/maps').read())
                else: os.wait()
                """
            #expect(try rack.run([], ["/usr/bin/python3", "-c", forked]).text == "True\n")
        }
    }

    /// A container of the program's own has its own proc(5).
    @Test func aNewNamespaceMountsItsOwn() throws {
        try Rack.with { rack in
            let command = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]
            let result = try rack.run(
                ["--user", "nobody"], ["/usr/bin/env"] + command + ["sh", "-c", "echo /proc/[0-9]* $$"])
            #expect(result.text == "/proc/1 1\n", "\(result.errors)")
        }
    }

    @Test func memoryIsTheRacks() throws {
        try Rack.with(["--memories", "2", "--memory-size", "768MiB"]) { rack in
            let script = """
                import os
                fields = dict(line.split(':') for line in open('/proc/meminfo'))
                total = int(fields['MemTotal'].split()[0]) << 10
                pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGESIZE')
                free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGESIZE')
                print(total >> 20, pages >> 20, 0 < free <= total, int(fields['MemAvailable'].split()[0]) << 10 <= total)
                """
            let rackWide = try rack.run([], ["/usr/bin/python3", "-c", script])
            #expect(rackWide.text == "1536 1536 True True\n", "\(rackWide.errors)")
            let limited = try rack.run(["--memory", "100MiB"], ["/usr/bin/python3", "-c", script])
            #expect(limited.text == "100 100 True True\n", "\(limited.errors)")
            let free = try rack.run([], ["/usr/bin/free", "-m"])
            #expect(free.text.contains(" 1536 "), "\(free.text)\(free.errors)")
            // Huge pages of hugetlb are the host's.
            let huge = ["grep", "^Huge", "/proc/meminfo"]
            let native = try Command("/usr/bin/env", huge).run()
            #expect(native.text.contains("Hugepagesize:"))
            #expect(try rack.run([], ["/usr/bin/env"] + huge).text == native.text)
        }
    }
}
