"""Captions of six images in several languages, and a data set of them."""

from pathlib import Path

from seesay.data.annotations import Annotation, Annotations, write_annotations
from tests import tiny

CAPTIONS = {
    "zh": (
        ("一只棕色的狗在草地上奔跑。", "草地上有一只奔跑的狗"),
        ("两个男人在街上骑自行车。", "街上有两个骑自行车的人"),
        ("一个穿红色衣服的小女孩在海边玩沙子。", "小女孩在沙滩上玩"),
        ("桌子上放着一盘水果和一杯咖啡。", "一杯咖啡旁边有水果"),
        ("一只黑猫坐在窗台上看着外面。", "窗台上坐着一只猫"),
        ("几个人站在雪山前面拍照。", "人们在雪山前合影"),
    ),
    "ja": (
        ("茶色い犬が草の上を走っている。", "芝生を走る犬"),
        ("二人の男性が道で自転車に乗っている。", "自転車に乗る二人"),
        ("赤い服を着た女の子が海辺で遊んでいる。", "砂浜で遊ぶ女の子"),
        ("テーブルの上に果物とコーヒーがある。", "コーヒーのそばに果物がある"),
        ("黒い猫が窓辺に座っている。", "窓辺の猫"),
        ("数人が雪山の前で写真を撮っている。", "雪山の前の人々"),
    ),
    "th": (
        ("สุนัขสีน้ำตาลกำลังวิ่งอยู่บนหญ้า", "สุนัขวิ่งบนสนามหญ้า"),
        ("ชายสองคนกำลังขี่จักรยานบนถนน", "คนสองคนขี่จักรยาน"),
        ("เด็กผู้หญิงใส่เสื้อสีแดงเล่นทราย", "เด็กผู้หญิงเล่นอยู่ริมทะเล"),
        ("มีผลไม้และกาแฟวางอยู่บนโต๊ะ", "กาแฟหนึ่งแก้วข้างผลไม้"),
        ("แมวสีดำนั่งอยู่ที่หน้าต่าง", "แมวตัวหนึ่งมองออกไปข้างนอก"),
        ("ผู้คนยืนถ่ายรูปหน้าภูเขาหิมะ", "กลุ่มคนหน้าภูเขา"),
    ),
    "ar": (
        ("كلب بني يجري على العشب الأخضر.", "كلب يركض في الحديقة"),
        ("رجلان يركبان الدراجات في الشارع.", "شخصان على دراجات"),
        ("فتاة صغيرة تلعب بالرمل على الشاطئ.", "طفلة بملابس حمراء تلعب"),
        ("طبق فاكهة وفنجان قهوة على الطاولة.", "قهوة بجانب الفاكهة"),
        ("قطة سوداء تجلس على حافة النافذة.", "قطة تنظر من النافذة"),
        ("مجموعة من الناس أمام جبل مغطى بالثلج.", "ناس يلتقطون صورة"),
    ),
    "de": (
        ("Ein brauner Hund läuft über die grüne Wiese.", "Ein Hund rennt auf dem Gras"),
        ("Zwei Männer fahren mit dem Fahrrad auf der Straße.", "Zwei Radfahrer auf einer Straße"),
        ("Ein kleines Mädchen spielt am Strand mit Sand.", "Ein Mädchen in roter Kleidung am Meer"),
        ("Auf dem Tisch stehen Obst und eine Tasse Kaffee.", "Eine Tasse Kaffee und Obst"),
        ("Eine schwarze Katze sitzt auf der Fensterbank.", "Eine Katze schaut aus dem Fenster"),
        ("Mehrere Leute stehen vor einem Berg und das Licht ist gut.", "Leute vor einem verschneiten Berg"),
    ),
    "en": (
        ("A brown dog runs across the green grass.", "a dog is running on grass"),
        ("Two men ride bicycles on the street.", "two people with bicycles"),
        ("A little girl in red plays with sand at the beach.", "a girl is playing by the sea"),
        ("There is fruit and a cup of coffee on the table.", "a cup of coffee beside fruit"),
        ("A black cat sits on the window sill.", "a cat is looking out of the window"),
        ("Several people stand in front of a mountain with snow.", "people at a mountain"),
    ),
}
WITHOUT_SPACES = ("zh", "ja", "th")


def make_data(folder: Path, language: str) -> Annotations:
    """Writes small images with the captions of a language; the last two are in the val and test splits."""
    items = []
    for number, captions in enumerate(CAPTIONS[language]):
        path = folder / "images" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny.image(number).save(path)
        split = {4: "val", 5: "test"}.get(number, "train")
        items.append(Annotation(path.stem, str(path), captions, split))
    annotations = Annotations(tuple(items), str(folder), "jsonl")
    write_annotations(annotations, folder / "captions.jsonl")
    return annotations
