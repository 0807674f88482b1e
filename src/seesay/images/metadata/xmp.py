"""XMP packets (RDF in XML): reads description and keywords, changes only dc:description.

Other content and prefixes are preserved.
"""

from xml.dom import minidom
from xml.parsers.expat import ExpatError

from seesay.images.metadata.errors import DescriptionError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_XML = "http://www.w3.org/XML/1998/namespace"
_DEFAULT_LANGUAGE = "x-default"
_EMPTY = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"/></x:xmpmeta>'.encode()
_BEGIN = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_END = '\n<?xpacket end="w"?>'


def description(packet: bytes) -> str:
    """Return the description in the language x-default, else in the first language; empty if there is none.

    Raises:
        DescriptionError: the packet is damaged.
    """
    for element in _parsed(packet).getElementsByTagNameNS(_DC, "description"):
        items = _items(element)
        chosen = next((item for item in items if item.getAttributeNS(_XML, "lang") == _DEFAULT_LANGUAGE), None)
        return _content(chosen or (items[0] if items else element)).strip()
    return ""


def keywords(packet: bytes) -> tuple[str, ...]:
    """Return the keywords (dc:subject) of a packet.

    Raises:
        DescriptionError: the packet is damaged.
    """
    items = (item for element in _parsed(packet).getElementsByTagNameNS(_DC, "subject") for item in _items(element))
    return tuple(filter(None, (_content(item).strip() for item in items)))


def with_description(packet: bytes | None, text: str) -> bytes:
    """Return a packet with a new description; descriptions in other languages are removed.

    Raises:
        DescriptionError: the existing packet is damaged or has no RDF.
    """
    document = _parsed(packet or _EMPTY)
    roots = document.getElementsByTagNameNS(_RDF, "RDF")
    if not roots:
        raise DescriptionError("its XMP contains no RDF")
    for old in list(document.getElementsByTagNameNS(_DC, "description")):
        if old.parentNode is not None:
            old.parentNode.removeChild(old)
    others = roots[0].getElementsByTagNameNS(_RDF, "Description")
    about = others[0].getAttributeNS(_RDF, "about") if others else ""
    roots[0].appendChild(_element(document, about, text))
    root = document.documentElement
    assert root is not None, "a parsed document has one"
    return (_BEGIN + root.toxml() + _END).encode("utf-8", "replace")


def _element(document: minidom.Document, about: str, text: str) -> minidom.Element:
    """Return a description element with its own namespace prefixes."""
    outer = document.createElementNS(_RDF, "rdf:Description")
    outer.setAttribute("xmlns:rdf", _RDF)
    outer.setAttribute("xmlns:dc", _DC)
    outer.setAttributeNS(_RDF, "rdf:about", about)
    parent = outer
    for space, name in ((_DC, "dc:description"), (_RDF, "rdf:Alt"), (_RDF, "rdf:li")):
        child = document.createElementNS(space, name)
        parent.appendChild(child)
        parent = child
    parent.setAttribute("xml:lang", _DEFAULT_LANGUAGE)
    parent.appendChild(document.createTextNode(text))
    return outer


def _parsed(packet: bytes) -> minidom.Document:
    packet = packet.strip(b"\0 \t\r\n")
    if b"<!" in packet.replace(b"<!--", b"").replace(b"<![CDATA[", b""):
        raise DescriptionError("its XMP declares entities, which are not allowed")
    try:
        return minidom.parseString(packet)
    except (ExpatError, ValueError) as error:
        raise DescriptionError(f"its XMP is damaged ({error})") from error


def _items(element: minidom.Element) -> list[minidom.Element]:
    return list(element.getElementsByTagNameNS(_RDF, "li"))


def _content(node: minidom.Node) -> str:
    if node.nodeType in (node.TEXT_NODE, node.CDATA_SECTION_NODE):
        return str(node.nodeValue)
    return "".join(map(_content, node.childNodes))
