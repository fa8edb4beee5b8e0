package verdict

// texts by cause.
var texts = map[Cause]Text{}
