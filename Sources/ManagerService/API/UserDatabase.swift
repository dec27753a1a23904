import Glibc

/// A user of the manager's host.
struct UserAccount: Sendable, Equatable {
    var name: String
    var userID: UInt32
    var groupID: UInt32
    /// Supplementary groups, the primary one among them.
    var groups: [UInt32]
    var home: String
}

/// Who users are. The rack trusts the manager's host for that, never a client.
protocol UserDatabase: Sendable {
    func user(named name: String) -> UserAccount?
    func user(numbered number: UInt32) -> UserAccount?
}

/// passwd(5) and group(5), or whatever nsswitch.conf(5) puts in their place. Calls may block.
struct SystemUserDatabase: UserDatabase {
    func user(named name: String) -> UserAccount? {
        account { getpwnam_r(name, $0, $1, $2, $3) }
    }

    func user(numbered number: UInt32) -> UserAccount? {
        account { getpwuid_r(number, $0, $1, $2, $3) }
    }

    private typealias Lookup = (
        UnsafeMutablePointer<passwd>, UnsafeMutablePointer<CChar>, Int,
        UnsafeMutablePointer<UnsafeMutablePointer<passwd>?>
    ) -> Int32

    private func account(_ lookup: Lookup) -> UserAccount? {
        var capacity = 4096
        while capacity <= 1 << 20 {
            let buffer = UnsafeMutablePointer<CChar>.allocate(capacity: capacity)
            defer { buffer.deallocate() }
            var entry = passwd()
            var found: UnsafeMutablePointer<passwd>?
            let result = lookup(&entry, buffer, capacity, &found)
            if result == ERANGE {
                capacity *= 4
                continue
            }
            if result != 0 || found == nil { return nil }
            let name = String(cString: entry.pw_name)
            return UserAccount(
                name: name, userID: entry.pw_uid, groupID: entry.pw_gid, groups: groups(of: name, entry.pw_gid),
                home: String(cString: entry.pw_dir))
        }
        return nil
    }

    private func groups(of name: String, _ primary: gid_t) -> [UInt32] {
        var count: Int32 = 64
        while true {
            var groups = [gid_t](repeating: 0, count: Int(count))
            let capacity = count
            if getgrouplist(name, primary, &groups, &count) >= 0 { return Array(groups[..<Int(count)]) }
            // It has told how many there are; a library that does not is asked for more all the same.
            count = max(count, capacity * 2)
            if count > 1 << 16 { return [primary] }
        }
    }
}
