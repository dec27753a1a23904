import ManagementAPI

/// A request that is refused: the HTTP status, and one line for the user that says what to do.
struct APIError: Error, Equatable {
    var status: Int
    var failure: APIFailure
    /// The Allow header of a 405.
    var allowedMethods: String?

    init(_ status: Int, _ reason: String, exitStatus: Int? = nil) {
        self.status = status
        failure = APIFailure(reason: reason, exitStatus: exitStatus)
    }

    static func noProgram(_ id: UInt64) -> APIError {
        APIError(404, "there is no program \(id); 'legoctl ps -a' lists those that there are")
    }
}
