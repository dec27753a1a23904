import ManagementAPI

/// Who a request comes from: the owner of the far end of its connection, as the kernel knows it.
struct Caller: Sendable, Equatable {
    var userID: UInt32
    var isRoot: Bool { userID == 0 }

    /// Whether the caller may signal, attach to or read a program of that user.
    func mayControl(_ owner: UInt32) -> Bool { isRoot || userID == owner }
}

/// Whom a submitted program runs as.
struct Submitter: Sendable, Equatable {
    var account: UserAccount
    /// One line that the caller should see.
    var notice: String?

    /// Root may name anybody, and runs as `nobody` when it names nobody; others are themselves.
    init(caller: Caller, requested: String?, in users: some UserDatabase) throws(APIError) {
        let requested = requested.flatMap { $0.isEmpty ? nil : $0 }
        if let requested {
            // A number names a user only if no user is called so.
            let account = users.user(named: requested) ?? UInt32(requested).flatMap { users.user(numbered: $0) }
            guard let account else {
                throw APIError(422, "there is no user '\(requested)' on the manager's host", exitStatus: 126)
            }
            if !caller.isRoot, account.userID != caller.userID {
                throw APIError(
                    403, "only root may run a program as another user; leave --user out, or use sudo", exitStatus: 126)
            }
            self.account = account
        } else if caller.isRoot {
            guard let nobody = users.user(named: "nobody") else {
                throw APIError(
                    422, "there is no user 'nobody' on the manager's host; name another with --user", exitStatus: 126)
            }
            account = nobody
            notice = "submitted by root: runs as nobody (use --user root to run it as root)"
        } else {
            guard let account = users.user(numbered: caller.userID) else {
                throw APIError(
                    403, "user \(caller.userID) has no entry in the manager's user database", exitStatus: 126)
            }
            self.account = account
        }
    }

    /// The program's environment: the caller's, but for what names another person.
    func environment(_ given: [String], caller: Caller) -> [String] {
        if account.userID == caller.userID { return given }
        let own = ["HOME=\(account.home)", "USER=\(account.name)", "LOGNAME=\(account.name)"]
        return given.filter { !$0.hasPrefix("HOME=") && !$0.hasPrefix("USER=") && !$0.hasPrefix("LOGNAME=") } + own
    }
}
