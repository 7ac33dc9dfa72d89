package conformance

import "slices"

func statements5() []statement {
	return slices.Concat(format5, connect5, connack5, publish5, acks5, subscribe5, disconnect5, behaviour5)
}

// Reasons why there is no test.
const (
	clientSends = "only clients send it"
	noCondition = "the broker supports all QoS and retained messages, so the condition never arises"
	neverAuth   = "the broker supports no enhanced authentication and never sends AUTH"
)

var format5 = []statement{
	{id: "1.5.4-1", says: "strings are well-formed UTF-8 without surrogates", check: illFormedStrings},
	{id: "1.5.4-2", says: "strings hold no U+0000", check: nulInStrings},
	{id: "1.5.4-3", says: "U+FEFF is a character like any other and is kept", check: byteOrderMarkIsKept},
	{id: "1.5.5-1", says: "variable byte integers take as few bytes as they can", check: shortestIntegers},
	{id: "1.5.7-1", says: "both strings of a pair follow the rules for strings", check: pairsOfStrings},
	{id: "2.1.3-1", says: "reserved flag bits have their prescribed value", check: invalidFlags},
	{id: "2.2.1-2", says: "a QoS 0 PUBLISH has no packet identifier", check: qos0HasNoPacketIdentifier},
	{id: "2.2.1-3", says: "a client's new packet has an unused identifier other than 0", check: zeroPacketIdentifier},
	{
		id: "2.2.1-4", says: "the server's new PUBLISH has an unused identifier other than 0",
		check: serverPacketIdentifiers,
	},
	{id: "2.2.1-5", says: "acknowledgements carry the identifier of their PUBLISH", check: ackPacketIdentifiers},
	{
		id: "2.2.1-6", says: "SUBACK and UNSUBACK carry the identifier of what they answer",
		check: subackPacketIdentifiers,
	},
	{id: "2.2.2-1", says: "no properties are written as a length of 0", check: emptyPropertiesHaveALength},
}

var connect5 = []statement{
	{id: "3.1.0-1", says: "the first packet of a client is CONNECT", check: connectComesFirst},
	{id: "3.1.0-2", says: "a second CONNECT is a protocol error", check: secondConnect},
	{id: "3.1.2-1", says: "another protocol name is not accepted", check: protocolName},
	{id: "3.1.2-2", says: "an unsupported version is refused and closed", check: protocolLevel5},
	{id: "3.1.2-3", says: "the reserved connect flag is 0", check: reservedConnectFlag},
	{id: "3.1.2-4", says: "clean start discards the session", check: cleanStartDiscards},
	{id: "3.1.2-5", says: "without clean start the session is resumed", check: sessionIsResumed},
	{id: "3.1.2-6", says: "without clean start and session a new one is made", check: sessionIsCreated},
	{id: "3.1.2-7", says: "a will is kept with the session", check: willOfADurableSession},
	{id: "3.1.2-8", says: "a will is published when the connection is lost", check: willIsPublished},
	{id: "3.1.2-9", says: "with the will flag the will fields are there", check: willFieldsMissing},
	{id: "3.1.2-10", says: "a will is gone once published or after a normal goodbye", check: willIsForgotten5},
	{id: "3.1.2-11", says: "without the will flag the will QoS is 0", check: willQoSWithoutFlag},
	{id: "3.1.2-12", says: "the will QoS is 0, 1 or 2", check: willQoS},
	{id: "3.1.2-13", says: "without the will flag will retain is 0", check: willRetainWithoutFlag},
	{id: "3.1.2-14", says: "without will retain the will is not retained", check: willIsNotRetained},
	{id: "3.1.2-15", says: "with will retain the will is retained", check: willIsRetained},
	{id: "3.1.2-16", says: "without its flag there is no user name", check: userNameWithoutFlag},
	{id: "3.1.2-17", says: "with its flag there is a user name", check: userNameMissing},
	{id: "3.1.2-18", says: "without its flag there is no password", check: passwordWithoutFlag},
	{id: "3.1.2-19", says: "with its flag there is a password", check: passwordMissing},
	{id: "3.1.2-20", says: "a client with nothing to send sends PINGREQ", client: clientSends},
	{
		id: "3.1.2-21", says: "a client obeys the server's keep alive",
		client: "the client's timing; 3.2.2-21 shows the server's",
	},
	{id: "3.1.2-22", says: "a client silent for one and a half times its keep alive is cut off", check: keepAlive},
	{id: "3.1.2-23", says: "a session with an expiry interval outlives the connection", check: sessionIsStored},
	{id: "3.1.2-24", says: "no packet exceeds the client's maximum packet size", check: noPacketIsTooLarge},
	{id: "3.1.2-25", says: "a message too large for the client counts as sent", check: tooLargeIsDone},
	{id: "3.1.2-26", says: "no topic alias exceeds the client's maximum", check: aliasesOfTheServer},
	{id: "3.1.2-27", says: "a client that allows no topic aliases gets none", check: noAliasesOfTheServer},
	{id: "3.1.2-28", says: "response information is given only on request", check: noResponseInformation},
	{
		id: "3.1.2-29", says: "without request problem information acknowledgements give no reasons",
		check: noProblemInformation,
	},
	{
		id: "3.1.2-30", says: "during enhanced authentication a client sends AUTH and DISCONNECT only",
		client: clientSends,
	},
	{id: "3.1.3-1", says: "the fields of the payload have their order", check: connectFields},
	{id: "3.1.3-2", says: "the client identifier names the session", check: clientIdentifierNamesTheState},
	{id: "3.1.3-3", says: "the client identifier is there, and first", check: clientIdentifierMissing},
	{id: "3.1.3-4", says: "the client identifier is a UTF-8 string", check: illFormedClientIdentifier},
	{
		id: "3.1.3-5", says: "client identifiers of 1 to 23 letters and digits are allowed",
		check: simpleClientIdentifiers,
	},
	{id: "3.1.3-6", says: "a client without identifier gets one of its own", check: assignedClientIdentifier},
	{
		id: "3.1.3-7", says: "an assigned client identifier is told and works as any other",
		check: assignedClientIdentifierIsReal,
	},
	{id: "3.1.3-8", says: "a rejected client identifier closes the connection", check: rejectedClientIdentifier},
	{id: "3.1.3-9", says: "no will is sent when the client is back within the delay", check: backInTime},
	{id: "3.1.3-10", says: "the user properties of a will keep their order", check: willUserPropertiesInOrder},
	{id: "3.1.3-11", says: "the will topic is a UTF-8 string", check: illFormedWillTopic},
	{id: "3.1.3-12", says: "the user name is a UTF-8 string", check: illFormedUserName},
	{id: "3.1.4-1", says: "a malformed CONNECT closes the connection", check: malformedConnect},
	{id: "3.1.4-2", says: "a client that is not authorized is closed", check: failedAuthentication},
	{id: "3.1.4-3", says: "a second connection of a client takes over from the first", check: takeover},
	{id: "3.1.4-4", says: "clean start is obeyed at a takeover too", check: cleanStartAtTakeover},
	{id: "3.1.4-5", says: "a valid CONNECT is answered with success", check: acceptedConnect},
	{id: "3.1.4-6", says: "nothing is processed after a refused CONNECT", check: nothingAfterARefusal},
}

var connack5 = []statement{
	{id: "3.2.0-1", says: "CONNACK comes before everything else", check: connackComesFirst},
	{id: "3.2.0-2", says: "there is one CONNACK for a connection", check: oneConnack},
	{id: "3.2.2-1", says: "the reserved bits of CONNACK are 0", check: connackFlags},
	{id: "3.2.2-2", says: "after clean start no session is present", check: cleanSessionIsNotPresent},
	{id: "3.2.2-3", says: "session present says whether there was a session", check: keptSessionIsPresent},
	{
		id: "3.2.2-4", says: "a client without state closes when a session is present",
		client: "the state is the client's",
	},
	{
		id: "3.2.2-5", says: "a client with state discards it when no session is present",
		client: "the state is the client's",
	},
	{id: "3.2.2-6", says: "a refusal says that no session is present", check: refusalSaysNoSession},
	{id: "3.2.2-7", says: "after a refusal the connection is closed", check: refusalCloses},
	{id: "3.2.2-8", says: "CONNACK has one of its reason codes", check: refusalCloses},
	{id: "3.2.2-9", says: "a server with less than QoS 2 says so", check: qosIsNotLimited},
	{id: "3.2.2-10", says: "a server with less than QoS 2 still accepts every SUBSCRIBE", unseen: noCondition},
	{id: "3.2.2-11", says: "a client obeys the maximum QoS", client: "the broker names none"},
	{id: "3.2.2-12", says: "a will QoS that is not supported is refused", check: willQoSIsNotLimited},
	{
		id: "3.2.2-13", says: "will retain is refused where retained messages are not supported",
		check: willRetainIsNotRefused,
	},
	{id: "3.2.2-14", says: "a client told that there is no retain does not use it", check: retainIsAvailable},
	{id: "3.2.2-15", says: "a packet above the server's maximum closes the connection", check: largePackets},
	{id: "3.2.2-16", says: "an assigned client identifier is new", check: assignedClientIdentifier},
	{id: "3.2.2-17", says: "a topic alias above the server's maximum closes the connection", check: aliasTooLarge},
	{id: "3.2.2-18", says: "a client told no alias maximum uses no aliases", client: "the broker always names one"},
	{id: "3.2.2-19", says: "CONNACK has no reason string that would make it too large", check: refusalFits},
	{
		id: "3.2.2-20", says: "CONNACK has no user properties that would make it too large",
		check: noUserPropertiesInConnack,
	},
	{id: "3.2.2-21", says: "the keep alive that the server names is the one that counts", check: serverKeepAlive},
	{
		id: "3.2.2-22", says: "without one of its own the server goes by the client's keep alive",
		check: ownKeepAliveCounts,
	},
}
